"""CorrectBias: what quantizing shifts a layer's output by on average is taken back in its bias."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from leanly.graph import Graph, check_graph
from leanly.graph.nodes import argument, argument_names, read_once, reads_tensor, set_argument
from leanly.graph.tensors import find, put, read_attr
from leanly.quantize.quantizers import rounded_weight, weight_quantizers
from leanly.quantize.walking import Stop, Walk, reads_quantized_weight
from leanly.scalars import check_whole
from leanly.target import Target
from leanly.task import Task


@dataclass(frozen=True)
class CorrectBias:
    """Add to each layer's bias the mean by which its output fell short of the float one, layer after layer.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (the empirical form).
    Put it behind `quantize.Static`, and behind whatever rounds the weights otherwise.

    Args:
        samples: calibration rows, the first of `train` (of `validation` where there is no `train`).

    Raises:
        SettingError: a setting out of its range.
    """

    samples: int = 300

    def __post_init__(self) -> None:
        check_whole(self.samples, 1, name="samples", where="CorrectBias")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph whose layers give the float mean in every channel.

        Raises:
            SettingError: no weight is quantized.
            DataError: the task has no calibration data.
        """
        check_graph(graph, "CorrectBias")
        graph = graph.clone().eval()
        weight_quantizers(graph, "CorrectBias")
        for node in list(graph.module.graph.nodes):
            if reads_quantized_weight(node) and "bias" in argument_names(node):
                _give_bias(graph, node)
        graph.module.recompile()
        walk = Walk(graph, task, self.samples, "CorrectBias", floats=graph.clone())
        for stop in walk:
            for name in stop.segment.nodes:
                node = walk.nodes[name]
                if reads_quantized_weight(node) and "bias" in argument_names(node):
                    _correct(graph, walk, stop, node)
        return graph


def _give_bias(graph: Graph, node: Node) -> None:
    """Give a layer without one a bias of zeros, and one that several layers share a copy of its own."""
    bias = argument(node, "bias")
    module = graph.module
    weight = rounded_weight(module, node)
    if reads_tensor(bias):
        if read_once(bias):
            return
        values = find(module, str(bias.target)).detach().clone()
    else:
        values = weight.new_zeros(weight.shape[0])
    name = f"biases.{node.name}"
    put(module, name, nn.Parameter(values))
    with module.graph.inserting_before(node):
        set_argument(node, "bias", read_attr(module, name))


def _correct(graph: Graph, walk: Walk, stop: Stop, node: Node) -> None:
    part = stop.segment.until(node.name)
    behind = rounded_weight(graph.module, node).ndim - 2
    wanted = _channel_means(walk.pieces(walk.exactly, part, stop.exact), behind)
    given = _channel_means(walk.pieces(walk.roughly, part, stop.rough), behind)
    bias = find(graph.module, str(argument(node, "bias").target))
    with torch.no_grad():
        bias += (wanted - given).to(bias.dtype)


def _channel_means(pieces: Iterable[Tensor], behind: int) -> Tensor:
    """Return the mean of each output channel, which has so many dimensions behind it: those that a kernel covers."""
    sums, count = [], 0
    for values in pieces:
        channel = values.ndim - 1 - behind
        sums.append(values.double().sum([place for place in range(values.ndim) if place != channel]))
        count += values.numel() // values.shape[channel]
    return torch.stack(sums).sum(0) / count

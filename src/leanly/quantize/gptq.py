"""GPTQ: weights are rounded column by column, and what each rounding loses the columns after it make up for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.columns import columns, damped, has_columns, inverse_factor
from leanly.graph.nodes import argument
from leanly.graph.segments import Runner
from leanly.graph.tensors import find
from leanly.quantize.affine import Affine
from leanly.quantize.quantizers import is_quantizer, read_affine, weight_quantizers, write_weight
from leanly.quantize.walking import Stop, Walk, reads_quantized_weight
from leanly.scalars import check_whole, is_number
from leanly.target import Target
from leanly.task import Task

aten = torch.ops.aten
BLOCK = 128
"""Columns."""


@dataclass(frozen=True)
class GPTQ:
    """Round the weights of linear layers and convolutions so that their outputs on calibration rows change least.

    Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"; the
    columns that matter most go first. Put it behind what places the quantizers of weights.

    Args:
        samples: calibration rows, the first of `train` (of `validation` where there is no `train`).
        damping: share of the mean of its diagonal that is added to a layer's Hessian.

    Raises:
        SettingError: a setting out of its range.
    """

    samples: int = 300
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_whole(self.samples, 1, name="samples", where="GPTQ")
        if not (is_number(self.damping) and self.damping > 0):
            raise SettingError(f"damping is {self.damping!r}", where="GPTQ", remedy="give a number above 0")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph whose quantized weights lie on their integers.

        Raises:
            SettingError: no weight is quantized.
            DataError: the task has no calibration data.
        """
        check_graph(graph, "GPTQ")
        graph = graph.clone().eval()
        weight_quantizers(graph, "GPTQ")
        walk = Walk(graph, task, self.samples)
        rounded: set[Node] = set()
        for stop in walk:
            layers = [
                node
                for name in stop.segment.nodes
                if reads_quantized_weight(node := walk.nodes[name])
                and is_quantizer(argument(node, "weight"))
                and has_columns(node)
                and argument(node, "weight") not in rounded
            ]
            for node, hessians in _hessians(walk, stop, layers).items():
                quantizer = argument(node, "weight")
                weight = find(graph.module, str(argument(quantizer, "x").target)).detach()
                affine = read_affine(graph.module, quantizer)
                write_weight(graph.module, quantizer, _rounded(weight, affine, hessians, self.damping))
                rounded.add(quantizer)
        return graph


def _hessians(walk: Walk, stop: Stop, layers: list[Node]) -> dict[Node, Tensor]:
    """Return for each layer the sum of its input's outer products, `[groups, columns, columns]`, one group a layer."""
    found: dict[Node, Tensor] = {}

    def see(running: Runner) -> None:
        for node in layers:
            kernel = running.value(argument(node, "weight")).shape[2:]
            multiplied = columns(running.value(argument(node, "input")), node, kernel)
            products = multiplied @ multiplied.transpose(1, 2)
            found[node] = products.double() if node not in found else found[node] + products

    if layers:
        walk.run(walk.roughly, stop.segment, stop.rough, see)
    return found


def _rounded(weight: Tensor, affine: Affine, hessians: Tensor, damping: float) -> Tensor:
    """Round a weight; each group of its output channels by the Hessian of the inputs that it reads."""
    rows = weight.reshape(len(hessians), -1, weight[0].numel()).double()
    scale, shift = (values.expand(weight.shape).reshape(rows.shape).double() for values in affine.along(weight))
    parts = [
        _rounded_rows(one, Affine(s, z, affine.low, affine.high), hessian, damping)
        for one, s, z, hessian in zip(rows, scale, shift, hessians, strict=True)
    ]
    return torch.stack(parts).reshape(weight.shape).to(weight.dtype)


def _rounded_rows(rows: Tensor, affine: Affine, hessian: Tensor, damping: float) -> Tensor:
    """Round `[channels, columns]`; the affine has a scale for every element.

    What a block of columns loses the columns behind it make up for at once, which is the same and takes less time.
    """
    hessian = damped(hessian, damping)
    order = torch.argsort(hessian.diagonal(), descending=True)
    factor = inverse_factor(hessian[order][:, order])
    rows, scale, shift = (values[:, order] for values in (rows, affine.scale, affine.shift))
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        lost = torch.empty_like(rows[:, start:stop])
        for place in range(start, stop):
            one = Affine(scale[:, place], shift[:, place], affine.low, affine.high, 0)
            rounded = one.dequantize(one.quantize(rows[:, place]))
            lost[:, place - start] = (rows[:, place] - rounded) / factor[place, place]
            rows[:, place] = rounded
            rows[:, place + 1 : stop] -= lost[:, place - start, None] * factor[place, place + 1 : stop]
        rows[:, stop:] -= lost @ factor[start:stop, stop:]
    return rows[:, torch.argsort(order)]

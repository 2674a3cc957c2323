"""Equalize: channels of two layers in a row are scaled against each other until both have the same ranges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leanly.graph import Graph, check_graph
from leanly.graph.folding import fold_batch_norm
from leanly.graph.layers import CONVOLUTIONS
from leanly.graph.nodes import argument, read_once, reads_tensor
from leanly.graph.tensors import find
from leanly.quantize.placement import WEIGHTED
from leanly.quantize.quantizers import check_float_weights
from leanly.scalars import check_whole
from leanly.target import Target
from leanly.task import Task

aten = torch.ops.aten
PASSING = frozenset({
    aten.relu.default, aten.max_pool2d.default, aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default,
    aten.dropout.default,
})  # fmt: skip
"""Operators that keep channels apart and give k times as much for k times as much, k above zero."""
CLOSE = 1e-3
SMALLEST = 1e-8


@dataclass(frozen=True)
class Equalize:
    """Divide each output channel of a layer by a factor and multiply what reads it by the same: outputs stay.

    The factor makes the largest weights of both sides equal, so that one scale suits all channels. Layers count as a
    pair where nothing else reads what is between them, and nothing but ReLU and pooling lies there. Batch norm is
    folded first. Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction".

    Args:
        sweeps: how often all pairs are gone through, at most.

    Raises:
        SettingError: a setting out of its range.
    """

    sweeps: int = 20

    def __post_init__(self) -> None:
        check_whole(self.sweeps, 1, name="sweeps", where="Equalize")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph that computes the same in eval mode; neither data nor target are needed.

        Where there is nothing to equalize, a note says so.

        Raises:
            SettingError: weights are quantized already.
        """
        check_graph(graph, "Equalize")
        check_float_weights(graph, "Equalize")
        graph = fold_batch_norm(graph)
        pairs = _pairs(graph.module)
        if not pairs:
            reason = "no layer feeds one other layer alone, through nothing but ReLU and pooling"
            graph.notes = (*graph.notes, f"quantize.Equalize: nothing to equalize: {reason}")
        with torch.no_grad():
            for _ in range(self.sweeps):
                moved = [_equalize(graph.module, first, second) for first, second in pairs]
                if max(moved, default=0.0) < CLOSE:
                    break
        return graph


def has_pairs(graph: Graph) -> bool:
    """Say whether there is anything to equalize."""
    return bool(_pairs(fold_batch_norm(graph).module))


def _pairs(module: GraphModule) -> list[tuple[Node, Node]]:
    """Return the layers that feed one other layer and nothing else, each with weights of its own."""
    found = []
    for first in module.graph.nodes:
        if not _has_own_weights(first):
            continue
        node = first
        while len(node.users) == 1:
            (reader,) = node.users
            if reader.target in PASSING:
                node = reader
                continue
            if _has_own_weights(reader) and argument(reader, "input") is node and _alike(first, reader):
                found.append((first, reader))
            break
    return found


def _alike(first: Node, second: Node) -> bool:
    """Say whether both count channels along the same dimension of what lies between."""
    return (first.target in CONVOLUTIONS) == (second.target in CONVOLUTIONS)


def _has_own_weights(node: Node) -> bool:
    if node.target not in WEIGHTED or not reads_tensor(argument(node, "weight")):
        return False
    reads = [argument(node, name) for name in ("weight", "bias")]
    return all(read_once(read) for read in reads if isinstance(read, Node))


def _equalize(module: GraphModule, first: Node, second: Node) -> float:
    """Scale one pair; return the largest logarithm of a factor."""
    weight, reader = (find(module, str(argument(node, "weight").target)) for node in (first, second))
    ahead, behind = weight.flatten(1).abs().amax(1), _largest_by_input(reader, second)
    usable = (ahead > SMALLEST) & (behind > SMALLEST)
    factor = torch.where(usable, (ahead / behind.clamp(min=SMALLEST)).sqrt(), torch.ones_like(ahead))
    weight.div_(_as_column(factor, weight.ndim))
    bias = argument(first, "bias")
    if isinstance(bias, Node):
        find(module, str(bias.target)).div_(factor)
    reader.mul_(_by_input(factor, reader, second))
    return float(factor.log().abs().amax())


def _groups(node: Node) -> int:
    return argument(node, "groups") if node.target in CONVOLUTIONS else 1


def _largest_by_input(weight: Tensor, node: Node) -> Tensor:
    """Return the largest weight that reads each input channel."""
    groups = _groups(node)
    grouped = weight.abs().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.amax((1, 3)).flatten()


def _by_input(factor: Tensor, weight: Tensor, node: Node) -> Tensor:
    """Return a factor an input channel in the shape of the weight that reads it."""
    groups = _groups(node)
    rows = factor.reshape(groups, 1, weight.shape[1]).expand(-1, weight.shape[0] // groups, -1)
    return rows.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.ndim - 2))


def _as_column(factor: Tensor, dimensions: int) -> Tensor:
    return factor.reshape(-1, *[1] * (dimensions - 1))

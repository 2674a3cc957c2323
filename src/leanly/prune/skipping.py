"""Skipping: the importance of layers, measured by leaving each of them out."""

from __future__ import annotations

import torch
from torch import Tensor

from leanly.graph import Graph
from leanly.graph.blocks import find_blocks
from leanly.graph.rows import checked_batches
from leanly.graph.shortening import without_blocks
from leanly.prune.labels import rows_of
from leanly.task import Task

ROWS = 128
"""Rows that are read."""


def skipping(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return how far the outputs move without each block, as a share of their spread; for `prune.Layers`.

    What a block counts is spread evenly over its parameters; those outside of all blocks are left out. One run a block,
    as in Men et al. 2024, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", but of the
    network's outputs.

    Args:
        graph: whose blocks are judged, in evaluation mode.
        task: the first 128 rows of `train` (`validation` where there is no `train`); labels are not used.

    Raises:
        DataError: the task has no rows.
    """
    split = rows_of(graph, task, "skipping")
    inputs, _ = next(checked_batches(graph, split, ROWS, ROWS))
    inputs = [tensor.to(graph.device) for tensor in inputs]
    graph = graph.clone().eval()
    sizes = {name: parameter.shape for name, parameter in graph.named_parameters()}
    saliency: dict[str, Tensor] = {}
    with torch.no_grad():
        before = graph.flat(*inputs)
        for block in find_blocks(graph):
            moved = _moved(before, without_blocks(graph, [block]).flat(*inputs))
            own = [name for name in block.tensors if name in sizes]
            total = sum(sizes[name].numel() for name in own)
            saliency |= {name: torch.full(sizes[name], moved / total, dtype=torch.float64) for name in own}
    return saliency


def _moved(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> float:
    """Return the mean over outputs of floats of their squared change, as a share of their variance."""
    shares = []
    for one, other in zip(before, after, strict=True):
        if one.is_floating_point():
            one, other = one.double(), other.double()
            shares.append(float((other - one).square().sum() / (one - one.mean(0)).square().sum().clamp(min=1e-30)))
    return sum(shares) / max(len(shares), 1)

"""Zeros among weights: which there are to be, and whether what came after a pruning pass filled them again."""

from __future__ import annotations

import torch
from torch import Tensor

from leanly.graph.graph import Graph

MANY = 0.1
"""Share of the weights: fewer zeros are nobody's pruning."""


def told_if_filled(before: Graph, after: Graph) -> str:
    """Say how many weights were zero, where most of those no longer are; else nothing."""
    was, now = _share(before), _share(after)
    return f"{was:.0%} of the weights were zero, {now:.0%} are now" if was >= MANY and now < was / 2 else ""


def _share(graph: Graph) -> float:
    weights = [parameter.detach() for parameter in graph.parameters() if parameter.ndim > 1]
    return sum(int((weight == 0).sum()) for weight in weights) / max(1, sum(weight.numel() for weight in weights))


def largest(scores: Tensor, sparsity: float) -> Tensor:
    """Mark all but the share with the lowest scores; of equal ones the first leave."""
    order = scores.flatten().argsort(stable=True)
    kept = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[order[: round(sparsity * scores.numel())]] = False
    return kept.reshape(scores.shape)

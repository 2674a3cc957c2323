"""Zeros among weights, which what comes after a pruning pass may fill again."""

from __future__ import annotations

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

"""The Pareto front of latency against the metric, with some slack for noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One trial: seconds per batch at each batch size (lower is better) and its metric (higher is better)."""

    number: int
    latency: dict[int, float]
    metric: float


def front(points: Sequence[Point], batch_size: int, *, slack: float = 1.0) -> list[Point]:
    """Return the points that no other beats at one batch size, the most accurate first.

    Args:
        points: what was measured.
        batch_size: the batch size whose latency counts.
        slack: another point must be this many times faster before it removes one whose metric is no better; above 1
            keeps near ties, which a short timing can't tell apart.
    """

    def beats(other: Point, point: Point) -> bool:
        if other.metric < point.metric:
            return False
        ahead, behind = other.latency[batch_size] * slack, point.latency[batch_size]
        return ahead < behind or (ahead == behind and other.metric > point.metric)

    kept = [point for point in points if not any(beats(other, point) for other in points if other is not point)]
    return sorted(kept, key=lambda point: (-point.metric, point.latency[batch_size], point.number))


def fronts(points: Sequence[Point], batch_sizes: Sequence[int], *, slack: float = 1.0) -> list[Point]:
    """Return the points on the front of at least one batch size, the most accurate first."""
    numbers = {point.number for size in batch_sizes for point in front(points, size, slack=slack)}
    kept = [point for point in points if point.number in numbers]
    return sorted(kept, key=lambda point: (-point.metric, min(point.latency.values()), point.number))

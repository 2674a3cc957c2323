"""Latency ratios pooled over the seeds of a benchmark: their geometric mean and its bootstrap over rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leanly.measurement.bootstrap import percentile_ends, resampled_rounds
from leanly.measurement.records import Interval, Latency


@dataclass(frozen=True)
class Pooled:
    """The logarithm of a ratio, and of its resamples."""

    estimate: float
    draws: np.ndarray

    @property
    def interval(self) -> Interval:
        """The ratio with its 95 % interval."""
        low, high = percentile_ends(self.draws, 0.95)
        return Interval(float(np.exp(self.estimate)), float(np.exp(low)), float(np.exp(high)))


def pooled_ratio(pairs: Sequence[tuple[Latency, Latency]], seed: int) -> Pooled:
    """Return the first latency over the second, the geometric mean over the pairs.

    Args:
        pairs: one a seed of the benchmark; both of a pair were timed in turns.
        seed: of the resamples; the batch sizes of one run share their rounds, so they share it too.
    """
    estimates, draws = [], []
    for number, (first, second) in enumerate(pairs):
        over, under = np.array(first.block_medians), np.array(second.block_medians)
        drawn = resampled_rounds(len(over), seed=1000 * seed + number)
        draws.append(np.log(np.median(over[drawn], axis=1)) - np.log(np.median(under[drawn], axis=1)))
        estimates.append(np.log(first.median / second.median))
    return Pooled(float(np.mean(estimates)), np.mean(draws, axis=0))


def pooled_median(latencies: Sequence[Latency]) -> float:
    """Return the geometric mean of the medians, in seconds."""
    return float(np.exp(np.mean([np.log(latency.median) for latency in latencies])))


def mean_of(ratios: Sequence[Pooled]) -> Pooled:
    """Return the geometric mean over rows."""
    return Pooled(
        float(np.mean([ratio.estimate for ratio in ratios])), np.mean([ratio.draws for ratio in ratios], axis=0)
    )

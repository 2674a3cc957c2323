"""The bootstrap, as plain numbers: resampled medians of blocks, and BCa ends of an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

RESAMPLES = 4000
_NORMAL = NormalDist()


def resampled_rounds(rounds: int, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Draw which rounds make each resample: an integer array of shape (resamples, rounds)."""
    return np.random.default_rng(seed).integers(0, rounds, (resamples, rounds))


def percentile_ends(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the two ends that leave (1 - confidence) / 2 of the draws on either side."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def median_ends(values: Sequence[float], confidence: float, *, seed: int = 0) -> tuple[float, float]:
    """Return the percentile-bootstrap ends of the median of independent values (here: medians of blocks)."""
    array = np.asarray(values, float)
    return percentile_ends(np.median(array[resampled_rounds(len(array), seed=seed)], axis=1), confidence)


def bias_correction(draws: np.ndarray, estimate: float) -> float:
    """Return BCa's z0: how far the middle of the draws is from the estimate; ties count half."""
    below = float(np.mean(draws < estimate) + np.mean(draws == estimate) / 2)
    return _NORMAL.inv_cdf(min(max(below, 1 / (len(draws) + 1)), len(draws) / (len(draws) + 1)))


def acceleration(leave_outs: np.ndarray) -> float:
    """Return BCa's a from the estimates with one group of examples left out (Efron 1987)."""
    distance = leave_outs.mean() - leave_outs
    square = float((distance**2).sum())
    return float((distance**3).sum()) / (6 * square**1.5) if square > 0 else 0.0


def bca_end(draws: np.ndarray, level: float, z0: float, a: float) -> float:
    """Return the end below which the truth lies with probability `level` (Efron 1987, J. Am. Stat. Assoc. 82)."""
    z = z0 + _NORMAL.inv_cdf(level)
    divisor = 1 - a * z
    share = _NORMAL.cdf(z0 + z / divisor) if divisor > 0 else float(z > 0)
    return float(np.quantile(draws, share))


def bca_level(draws: np.ndarray, value: float, z0: float, a: float) -> float:
    """Return the confidence with which the truth lies below `value`: the inverse of `bca_end`."""
    count = len(draws)
    share = float(np.mean(draws < value) + np.mean(draws == value) / 2)
    u = _NORMAL.inv_cdf(min(max(share, 1 / (count + 1)), count / (count + 1))) - z0
    divisor = 1 + a * u
    return _NORMAL.cdf(u / divisor - z0) if divisor > 0 else float(u > 0)


def loadgen_percentile(samples: Sequence[float], percent: float) -> float | None:
    """Return a latency percentile by MLPerf LoadGen's rule, None when there are too few samples.

    It is the largest sample left after dropping the t - 1 slowest, with t the largest count for which
    P(at most t over | n, 1 - p) <= 0.01: with 99 % confidence the true percentile is not above it.

    Args:
        samples: independent queries.
        percent: between 50 and 100, both left out.
    """
    count = len(samples)
    allowed = _largest_count(count, 1 - percent / 100)
    if allowed < 1:
        return None
    return sorted(samples)[count - allowed]


def _largest_count(trials: int, share: float, limit: float = 0.01) -> int:
    """Return the largest t with P(Binomial(trials, share) <= t) <= limit, -1 when there is none."""
    cumulative, successes = 0.0, 0
    while successes <= trials:
        choose = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
        cumulative += math.exp(choose + successes * math.log(share) + (trials - successes) * math.log1p(-share))
        if cumulative > limit:
            break
        successes += 1
    return successes - 1

"""The exact test of a paired difference of two accuracies: Tango's score statistic, the nuisance maximised.

Of n paired examples, `lost` are right in the reference only and `gained` in the candidate only. The drop is
P(lost) - P(gained); the nuisance parameter is the share of discordant examples, P(lost) + P(gained).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

GRID = 257
"""Points over the nuisance interval: about 30 a standard deviation of the share, in which nothing can hide."""
_NORMAL = NormalDist()


def tango_score(lost: np.ndarray | float, gained: np.ndarray | float, n: int, drop: float) -> np.ndarray:
    """Return the score statistic of "the drop is `drop`"; negative means that the data lie below it.

    Tango (1998), Statistics in Medicine 17, 891-908: the variance is the one at the likeliest point under the null.
    """
    if drop < 0:
        # The formula below holds for drops from 0 up; the two models' roles are symmetric.
        return -tango_score(gained, lost, n, -drop)
    x, y = np.asarray(lost, float), np.asarray(gained, float)
    b = (x + y) * (1 - drop) - 2 * drop * (n - x)
    gained_share = (b + np.sqrt(b * b + 8 * n * y * drop * (1 - drop))) / (4 * n)
    variance = n * (2 * np.maximum(gained_share, 0) + drop * (1 - drop))
    distance = x - y - n * drop
    return np.divide(distance, np.sqrt(variance), out=np.zeros(np.shape(distance)), where=variance > 0)


def tango_bound(lost: int, gained: int, n: int, level: float) -> float:
    """Return the drop below which the truth lies with confidence `level` (Tango's score bound)."""
    wanted = -_NORMAL.inv_cdf(level)
    low, high = -1.0, 1.0
    for _ in range(60):  # the score falls as the drop rises, from far above any quantile to far below
        middle = (low + high) / 2
        low, high = (middle, high) if float(tango_score(lost, gained, n, middle)) > wanted else (low, middle)
    return (low + high) / 2


def exact_p_below(lost: int, gained: int, n: int, max_drop: float, confidence: float) -> float:
    """Return the p-value of "the drop is `max_drop` or more" against "it is less".

    Outcomes are ordered by `tango_score`, and the probability of one as extreme as the observed is maximised over the
    share of discordant examples inside its Clopper-Pearson interval (Berger and Boos 1994, J. Am. Stat. Assoc. 89),
    whose small chance of error is added. The null's boundary is enough: given how many examples are discordant, the
    outcomes in the tail get less probable as the drop grows.

    Args:
        lost: examples that only the reference gets right.
        gained: examples that only the candidate gets right.
        n: examples in all.
        max_drop: the boundary, may be negative.
        confidence: of the test that will be made; sets the Berger-Boos error to a thousandth of its level.
    """
    from scipy.special import bdtr, betaincinv, gammaln, xlog1py, xlogy

    if max_drop > 1:
        return 0.0
    if max_drop <= -1:
        return 1.0
    error = (1 - confidence) / 1000
    discordant = lost + gained
    lowest = betaincinv(discordant, n - discordant + 1, error / 2) if discordant else 0.0
    highest = betaincinv(discordant + 1, n - discordant, 1 - error / 2) if discordant < n else 1.0
    lowest = max(lowest, abs(max_drop))
    if lowest > highest:
        return min(1.0, error)
    reach = 8 * math.sqrt(n * highest) + 10  # in counts; the probability beyond is below 1e-12
    first, last = max(0, math.floor(n * lowest - reach)), min(n, math.ceil(n * highest + reach))
    counts = np.arange(first, last + 1)
    edges = _largest_lost(counts, n, max_drop, float(tango_score(lost, gained, n, max_drop)))
    counts, edges = counts[edges >= 0], edges[edges >= 0]
    if not len(counts):
        return min(1.0, error)

    choose = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)

    def tail(shares: np.ndarray) -> np.ndarray:
        probability = np.exp(choose[:, None] + xlogy(counts[:, None], shares) + xlog1py(n - counts[:, None], -shares))
        lost_share = np.where(shares > 0, (shares + max_drop) / (2 * np.where(shares > 0, shares, 1)), 0.5)
        below = bdtr(edges[:, None].astype(float), counts[:, None], np.clip(lost_share, 0, 1))
        return (probability * np.where(edges[:, None] >= counts[:, None], 1.0, below)).sum(axis=0)

    # The standard deviation of a share is the same everywhere on the arcsine scale, so the grid is even there.
    grid = np.linspace(math.asin(math.sqrt(lowest)), math.asin(math.sqrt(highest)), GRID)
    values = tail(np.sin(grid) ** 2)
    best = int(np.argmax(values))
    fine = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)], 17)
    highest_tail = max(float(values[best]), float(tail(np.sin(fine) ** 2).max()))
    return min(1.0, highest_tail + error)


def exact_p_above(lost: int, gained: int, n: int, max_drop: float, confidence: float) -> float:
    """Return the p-value of "the drop is `max_drop` or less" against "it is more": the same test, roles exchanged."""
    return exact_p_below(gained, lost, n, -max_drop, confidence)


def _largest_lost(discordant: np.ndarray, n: int, drop: float, observed: float) -> np.ndarray:
    """Return, for each count of discordant examples, the largest `lost` that is as extreme as observed, -1 for none.

    With the discordant count fixed the score rises with `lost`, so halving finds it.
    """
    limit = observed + 1e-9 * (1 + abs(observed))
    low, high = np.full(len(discordant), -1), discordant.copy()
    while (open_ := low < high).any():
        middle = np.maximum((low + high + 1) // 2, 0)
        inside = tango_score(middle, discordant - middle, n, drop) <= limit
        low, high = np.where(open_ & inside, middle, low), np.where(open_ & ~inside, middle - 1, high)
    return low

"""Paired statistics: the drop in a metric on the same examples, and the ratio of latencies of the same rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from leanly.errors import DataError
from leanly.measurement.bootstrap import (
    RESAMPLES,
    acceleration,
    bca_end,
    bca_level,
    bias_correction,
    percentile_ends,
    resampled_rounds,
)
from leanly.measurement.exact import exact_p_above, exact_p_below, tango_bound
from leanly.measurement.records import Interval, Latency, PairedDrop
from leanly.structure import build, flatten

EXACT = "exact paired test"
BOOTSTRAP = "paired bootstrap (BCa)"
FEWEST_ROWS = 30
"""Below this a bootstrap of a metric says nothing that can be relied on."""
SMALL = 1e-5
"""Share of the spread of predictions that changes nothing where a metric counts rows."""
_NORMAL = NormalDist()


class Scored(Protocol):
    """What this module needs of a metric: `leanly.metrics.Metric` has it."""

    @property
    def name(self) -> str: ...

    @property
    def per_example(self) -> Callable[[Any, Any], np.ndarray] | None: ...

    def score(self, predictions: Any, targets: Any) -> float: ...


def paired_drop(
    metric: Scored, reference: Any, candidate: Any, targets: Any, max_drop: float, confidence: float = 0.95
) -> PairedDrop:
    """Estimate and test a drop by the exact test where the metric is a mean of right and wrong, else by the bootstrap.

    Args:
        metric: has `per_example` for the exact test.
        reference, candidate: predictions on the same examples, numpy in the model's own structure.
        targets: of these examples.
        max_drop: the boundary that is tested.
        confidence: of the test and the bounds.
    """
    if metric.per_example is None:
        return paired_drop_bootstrap(metric, reference, candidate, targets, max_drop, confidence)
    correct = metric.per_example(reference, targets), metric.per_example(candidate, targets)
    return paired_drop_exact(*correct, max_drop, confidence)


def paired_drop_exact(
    reference_correct: ArrayLike, candidate_correct: ArrayLike, max_drop: float, confidence: float = 0.95
) -> PairedDrop:
    """Test whether an accuracy drops by less than `max_drop`: exact, unconditional, of non-inferiority.

    The p-values hold at any n (Tango's statistic maximised over the discordance, Berger and Boos 1994); the bounds and
    the interval are Tango's score bounds (1998).

    Args:
        reference_correct, candidate_correct: 0 or 1 for each example, the same examples in the same order.
        max_drop: the boundary, as a fraction.
        confidence: of the test and the bounds.

    Raises:
        DataError: the arrays don't pair up.
    """
    reference, candidate = np.asarray(reference_correct).astype(bool), np.asarray(candidate_correct).astype(bool)
    if reference.shape != candidate.shape or reference.ndim != 1 or not len(reference):
        raise DataError(
            f"predictions do not pair up: {reference.shape} against {candidate.shape}",
            where="paired test",
            remedy="score both models on the same rows, at least one",
        )
    n = len(reference)
    lost, gained = int((reference & ~candidate).sum()), int((candidate & ~reference).sum())
    two_sided = (1 + confidence) / 2
    return PairedDrop(
        drop=Interval(
            (lost - gained) / n,
            -tango_bound(gained, lost, n, two_sided),
            tango_bound(lost, gained, n, two_sided),
            confidence,
        ),
        lower=-tango_bound(gained, lost, n, confidence),
        upper=tango_bound(lost, gained, n, confidence),
        test=EXACT,
        n=n,
        p_below=exact_p_below(lost, gained, n, max_drop, confidence),
        p_above=exact_p_above(lost, gained, n, max_drop, confidence),
    )


def paired_drop_bootstrap(
    metric: Scored,
    reference: Any,
    candidate: Any,
    targets: Any,
    max_drop: float,
    confidence: float = 0.95,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDrop:
    """Test whether any metric drops by less than `max_drop`: paired bootstrap over examples, BCa (Efron 1987).

    Where every resample gives the same drop, and small changes of the predictions don't move the metric, the drop is
    judged as a share of rows that none of n shows (Hanley and Lippman-Hand 1983), each costing the metric 1 at most.

    Args:
        metric: scores predictions of a whole split.
        reference, candidate: predictions on the same examples, numpy in the model's own structure.
        targets: of these examples.
        max_drop: the boundary, in the metric's units.
        confidence: of the test and the bounds.
        resamples: draws; each scores both models once.
        seed: of the draws.

    Raises:
        DataError: fewer rows than a bootstrap needs, or a metric that can't score one resample in twenty.
    """
    n = _rows(targets)
    if n < FEWEST_ROWS:
        raise DataError(
            f"{n} rows are too few to bootstrap {metric.name}",
            where="paired test",
            remedy=f"give at least {FEWEST_ROWS} rows",
        )

    def drop(rows: np.ndarray) -> float:
        wanted = _take(targets, rows, n)
        return metric.score(_take(reference, rows, n), wanted) - metric.score(_take(candidate, rows, n), wanted)

    estimate = drop(np.arange(n))
    random = np.random.default_rng(seed)
    draws = _each(drop, (random.integers(0, n, n) for _ in range(resamples)))
    if len(draws) < 0.95 * resamples:
        raise DataError(
            f"{metric.name} can't be scored on {resamples - len(draws)} of {resamples} resamples of the rows",
            where="paired test",
            remedy="give more rows, or a metric that is defined when a class is absent",
        )
    groups = np.array_split(random.permutation(n), min(n, 200))
    left_out = _each(drop, (np.setdiff1d(np.arange(n), group) for group in groups))
    z0, a = bias_correction(draws, estimate), acceleration(left_out)
    below = bca_level(draws, max_drop, z0, a)
    smallest = 1 / (len(draws) + 1)
    upper, p_below = bca_end(draws, confidence, z0, a), max(1 - below, smallest)
    if np.ptp(draws) == 0 and _in_steps(metric, candidate, targets):
        # no row differs, so resampling shows nothing of the rows that would: a share of them that n rows may well miss
        p_below = max(p_below, (1 - min(max(max_drop - estimate, 0.0), 1.0)) ** n)
        upper = estimate + 1 - (1 - confidence) ** (1 / n)
    return PairedDrop(
        drop=Interval(
            estimate,
            bca_end(draws, (1 - confidence) / 2, z0, a),
            bca_end(draws, (1 + confidence) / 2, z0, a),
            confidence,
        ),
        lower=bca_end(draws, 1 - confidence, z0, a),
        upper=upper,
        test=BOOTSTRAP,
        n=n,
        p_below=p_below,
        p_above=max(below, smallest),
    )


def ratio_interval(a: Latency, b: Latency, confidence: float = 0.95, *, seed: int = 0) -> Interval:
    """Return the latency of `a` over that of `b`, with the bootstrap over rounds in which both ran.

    Args:
        a, b: timed in turns: block i of both is of round i.
        confidence: of the interval.
        seed: of the resamples.
    """
    return ratio_intervals({1: a}, {1: b}, confidence, seed=seed)[0][1]


def ratio_intervals(
    a: Mapping[int, Latency], b: Mapping[int, Latency], confidence: float = 0.95, *, seed: int = 0
) -> tuple[dict[int, Interval], Interval]:
    """Return the latency ratio of each batch size that both have, and their geometric mean from the same resamples.

    Args:
        a, b: by batch size, timed in turns: block i of all is of round i.
        confidence: of every interval.
        seed: of the resamples.

    Raises:
        DataError: no batch size or no round in common.
    """
    sizes = [size for size in a if size in b]
    rounds = min((len(latency.blocks) for size in sizes for latency in (a[size], b[size])), default=0)
    if not rounds:
        raise DataError(
            f"latencies at batch sizes {list(a)} and {list(b)} do not pair up",
            where="latency ratio",
            remedy="time both artifacts in turns at the same batch sizes",
        )
    drawn = resampled_rounds(rounds, resamples=RESAMPLES, seed=seed)
    logs: list[np.ndarray] = []
    estimates: list[float] = []
    found: dict[int, Interval] = {}
    for size in sizes:
        first, second = (np.array(latency.block_medians[:rounds]) for latency in (a[size], b[size]))
        draws = np.log(np.median(first[drawn], axis=1)) - np.log(np.median(second[drawn], axis=1))
        estimate = float(np.log(np.median(first)) - np.log(np.median(second)))
        found[size] = _exponential(estimate, draws, confidence)
        logs.append(draws)
        estimates.append(estimate)
    return found, _exponential(float(np.mean(estimates)), np.mean(logs, axis=0), confidence)


def resolvable_drop(n: int, discordant: float = 0.02, confidence: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest `max_drop` that n examples can certify with this power when the true drop is zero.

    Args:
        n: examples.
        discordant: share of examples that exactly one of the two models gets right.
        confidence: of the one-sided test.
        power: probability of a pass.
    """
    return _reach(confidence, power) * math.sqrt(discordant / n)


def rows_needed(max_drop: float, discordant: float = 0.02, confidence: float = 0.95, power: float = 0.8) -> int:
    """Return how many examples certify `max_drop` with this power when the true drop is zero."""
    return math.ceil(discordant * (_reach(confidence, power) / max_drop) ** 2)


def confidence_reached(n: int, max_drop: float, discordant: float = 0.02, power: float = 0.8) -> float:
    """Return the highest confidence at which n examples certify `max_drop` with this power; below 0.5 is none."""
    return _NORMAL.cdf(max_drop / math.sqrt(discordant / n) - _NORMAL.inv_cdf(power))


def _reach(confidence: float, power: float) -> float:
    return _NORMAL.inv_cdf(confidence) + _NORMAL.inv_cdf(power)


def _exponential(estimate: float, draws: np.ndarray, confidence: float) -> Interval:
    low, high = percentile_ends(draws, confidence)
    # The estimate belongs to its interval, also where all draws are the same and rounding is all that differs.
    return Interval(math.exp(estimate), math.exp(min(low, estimate)), math.exp(max(high, estimate)), confidence)


def _rows(targets: Any) -> int:
    return len(flatten(targets)[1][0])


def _take(value: Any, rows: np.ndarray, n: int) -> Any:
    structure, leaves = flatten(value)
    # An output without the batch in front (a scalar, a table) is the same for every row.
    return build(structure, [leaf[rows] if np.ndim(leaf) and len(leaf) == n else leaf for leaf in leaves])


def _in_steps(metric: Scored, predictions: Any, targets: Any) -> bool:
    """Say whether a metric stays exactly as it is when all predictions move a little: it counts rows, as f1 does."""
    structure, leaves = flatten(predictions)
    random = np.random.default_rng(0)
    exact = [np.asarray(leaf, np.float64) if np.asarray(leaf).dtype.kind == "f" else leaf for leaf in leaves]
    moved = [
        leaf + SMALL * leaf.std() * random.standard_normal(leaf.shape) if np.asarray(leaf).dtype.kind == "f" else leaf
        for leaf in exact
    ]
    return metric.score(build(structure, moved), targets) == metric.score(build(structure, exact), targets)


def _each(function: Callable[[np.ndarray], float], samples: Any) -> np.ndarray:
    found: list[float] = []
    for rows in samples:
        try:
            found.append(function(rows))
        except DataError:
            continue
    return np.array(found)

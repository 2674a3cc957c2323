"""The judge: pass, fail or undecided against a budget, each with its test and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from leanly.budget import Budget
from leanly.measurement.records import Interval, Measurement, Outcome, PairedDrop, Verdict
from leanly.measurement.statistics import (
    FEWEST_ROWS,
    Scored,
    confidence_reached,
    paired_drop,
    ratio_intervals,
    resolvable_drop,
    rows_needed,
)

POWER = 0.8
DISCORDANT = 0.02
"""Share of discordant predictions that is assumed before any were made."""
_POINTS = ("accuracy", "top5", "f1")
Candidate = TypeVar("Candidate")


def judge(reference: Any, predictions: Any, targets: Any, metric: Scored, budget: Budget) -> Verdict:
    """Say whether the drop in the metric is inside the budget: shown to be below, shown to be above, or neither.

    Args:
        reference: predictions of the float32 model in eager PyTorch, numpy in the model's own structure.
        predictions: of the candidate, on the same rows.
        targets: of these rows.
        metric: exact test where it has `per_example`, paired bootstrap elsewhere.
        budget: its `max_drop` and `confidence`.

    Raises:
        DataError: the predictions don't pair up or the rows are too few for any test.
    """
    found = paired_drop(metric, reference, predictions, targets, budget.max_drop, budget.confidence)
    level = 1 - budget.confidence
    if found.p_below <= level and found.upper < budget.max_drop:
        outcome: Outcome = "pass"
    elif found.p_above <= level and found.lower > budget.max_drop:
        outcome = "fail"
    else:
        outcome = "undecided"
    return Verdict(
        outcome,
        _drop_reason(outcome, found, metric, budget),
        drop=found.drop,
        upper=found.upper,
        test=found.test,
        n=found.n,
        p_value=found.p_below,
    )


def within(measurement: Measurement, budget: Budget, reference: Measurement | None = None) -> Verdict:
    """Say whether an artifact is inside the budget's bytes, latency and speed-up.

    Args:
        measurement: of the candidate.
        budget: parts that are None pass.
        reference: the unmodified model's fastest float artifact, timed in turns with the candidate; needed for a
            speed-up.
    """
    verdicts = []
    if budget.bytes is not None:
        inside = measurement.artifact_bytes <= budget.bytes
        sign = "<=" if inside else ">"
        text = f"artifact {measurement.artifact_bytes:,} bytes {sign} {budget.bytes:,} allowed"
        verdicts.append(Verdict("pass" if inside else "fail", text))
    if budget.latency is not None:
        verdicts.extend(_latency_verdict(measurement, size, budget) for size in measurement.latency)
    if budget.speedup is not None:
        verdicts.append(_speedup_verdict(measurement, reference, budget.speedup, budget.confidence))
    return all_of(verdicts)


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Return one verdict of many: fail if any fails, else undecided if any is, else pass; test figures of the first."""
    verdicts = list(verdicts)
    if not verdicts:
        return Verdict("pass", "nothing was asked")
    outcomes = {verdict.outcome for verdict in verdicts}
    outcome: Outcome = "fail" if "fail" in outcomes else "undecided" if "undecided" in outcomes else "pass"
    tested = next((verdict for verdict in verdicts if verdict.test), verdicts[0])
    reason = "; ".join(verdict.reason for verdict in verdicts)
    return Verdict(outcome, reason, tested.drop, tested.upper, tested.test, tested.n, tested.p_value)


def certify_walk(
    trunk: Iterable[Candidate],
    branches: Iterable[Sequence[Candidate]],
    level: float,
    certify: Callable[[Candidate, float], Verdict],
) -> None:
    """Certify candidates in fixed orders, each of which ends at its first candidate that does not pass.

    The trunk comes first, each candidate tested at the full level (fixed-sequence testing: Pareto Testing,
    Laufer-Goldshtein et al. 2023; Learn then Test, Angelopoulos et al. 2021). The branches share the level equally; one
    that passes to its end leaves its share to the others, and what had stopped them is judged once more (fallback
    procedure, Wiens 2003; as a graph, Bretz et al. 2009). The chance that anything outside the budget passes is at most
    `level`, however many candidates there are. Orders must come from other data than the tests.

    Args:
        trunk: candidates that all have to pass before a branch is tested.
        branches: candidates in their orders; what stops one branch does not stop another.
        level: the chance of an error that is accepted, such as 0.05.
        certify: judges a candidate on the test split at a level; what it says last of a candidate counts.
    """
    if not all(certify(candidate, level).outcome == "pass" for candidate in trunk):
        return
    unfinished = [list(branch) for branch in branches if branch]
    stopped = 0
    while stopped < len(unfinished):
        share = level / len(unfinished)
        branch = unfinished.pop(0)
        while branch and certify(branch[0], share).outcome == "pass":
            del branch[0]
        if branch:
            unfinished.append(branch)
        stopped = stopped + 1 if branch else 0


def can_certify(n: int, budget: Budget, metric: Scored | None = None, *, discordant: float = DISCORDANT) -> str | None:
    """Say before any work whether n rows can certify the budget at 80 % power, and what would help if not.

    Args:
        n: rows of the split that certifies.
        budget: its `max_drop` and `confidence`.
        metric: without `per_example` only the least number of rows is checked: its spread is not known yet.
        discordant: share of rows that exactly one of two models is expected to get right.

    Returns:
        None when it can, else one sentence with the number of rows, the budget or the confidence that would do.
    """
    if metric is not None and metric.per_example is None:
        if n >= FEWEST_ROWS:
            return None
        return f"{n} rows can't certify any drop in {metric.name}: give at least {FEWEST_ROWS} rows"
    smallest = resolvable_drop(n, discordant, budget.confidence, POWER) if n else 1.0
    if smallest <= budget.max_drop:
        return None
    start = (
        f"{n:,} rows certify a drop of {100 * smallest:.2f} points at best, not {100 * budget.max_drop:.2f} "
        f"({100 * discordant:g} % of predictions discordant, confidence {100 * budget.confidence:g} %, "
        f"power {100 * POWER:g} %)"
    )
    remedies = []
    if budget.max_drop > 0:
        rows = rows_needed(budget.max_drop, discordant, budget.confidence, POWER)
        remedies.append(f"give {rows:,} rows")
    remedies.append(f"allow {100 * smallest:.2f} points")
    reached = confidence_reached(n, budget.max_drop, discordant, POWER) if n else 0.0
    if reached > 0.5:
        # Rounded down, so that what is named is reached.
        remedies.append(f"ask for a confidence of {int(100 * reached)} %")
    return f"{start}: {', '.join(remedies[:-1])}{' or ' if remedies[:-1] else ''}{remedies[-1]}"


def format_drop(value: float, metric: Scored) -> str:
    """Write a drop in the metric's units: points for shares, plain numbers elsewhere."""
    return f"{100 * value:.2f}" if _in_points(metric) else f"{value:.4g}"


def _in_points(metric: Scored) -> bool:
    return metric.per_example is not None or metric.name in _POINTS


def _drop_reason(outcome: Outcome, found: PairedDrop, metric: Scored, budget: Budget) -> str:
    unit = " points" if _in_points(metric) else f" in {metric.name}"
    level = f"{100 * budget.confidence:g} %"
    start = f"drop {format_drop(found.drop.value, metric)}{unit}"
    allowed = f"{format_drop(budget.max_drop, metric)} allowed"
    tail = f"n = {found.n:,}, {found.test}"
    if outcome == "fail":
        return f"{start}, {level} lower bound {format_drop(found.lower, metric)} > {allowed}, {tail}"
    bound = format_drop(found.upper, metric)
    if outcome == "pass":
        return f"{start}, {level} upper bound {bound} <= {allowed}, {tail}"
    if found.upper < budget.max_drop:
        # The score bound is approximate, the exact test decides.
        return f"{start}, {level} upper bound {bound}, but p = {found.p_below:.3f} for {allowed}, {tail}"
    lower = format_drop(found.lower, metric)
    return f"{start}, {level} bounds {lower} and {bound} enclose {allowed}, {tail}"


def _one_sided(confidence: float) -> float:
    """Return the confidence of the two-sided interval whose ends are one-sided bounds at `confidence`."""
    return 2 * confidence - 1


def _latency_verdict(measurement: Measurement, size: int, budget: Budget) -> Verdict:
    assert budget.latency is not None
    interval = measurement.latency[size].interval(_one_sided(budget.confidence))
    allowed = f"{1000 * budget.latency:.4g} ms allowed"
    start = f"batch {size}: median {1000 * interval.value:.4g} ms"
    outcome, text = _against(interval, budget.latency, 1000, "ms")
    return Verdict(outcome, f"{start}, {100 * budget.confidence:g} % {text} {allowed}")


def _against(interval: Interval, limit: float, scale: float, unit: str) -> tuple[Outcome, str]:
    low, high = f"{scale * interval.low:.4g} {unit}", f"{scale * interval.high:.4g} {unit}"
    if interval.high <= limit:
        return "pass", f"upper bound {high} <="
    if interval.low > limit:
        return "fail", f"lower bound {low} >"
    return "undecided", f"bounds {low} and {high} enclose"


def _speedup_verdict(
    measurement: Measurement, reference: Measurement | None, wanted: float, confidence: float
) -> Verdict:
    if reference is None:
        return Verdict("undecided", f"speed-up of {wanted:g}x can't be judged without a float reference")
    ratios, mean = ratio_intervals(measurement.latency, reference.latency, _one_sided(confidence))
    slower = {size: ratio for size, ratio in ratios.items() if ratio.low > 1}
    if slower:
        texts = (f"batch {size}: {ratio.value:.3f}x the time" for size, ratio in slower.items())
        return Verdict("fail", f"slower than the fastest float artifact at {', '.join(texts)}")
    speedup = mean.inverse()
    start = f"speed-up {speedup.value:.2f}x"
    level = f"{100 * confidence:g} %"
    if speedup.low >= wanted:
        return Verdict("pass", f"{start}, {level} lower bound {speedup.low:.2f}x >= {wanted:g}x wanted")
    if speedup.high < wanted:
        return Verdict("fail", f"{start}, {level} upper bound {speedup.high:.2f}x < {wanted:g}x wanted")
    ends = f"{level} bounds {speedup.low:.2f}x and {speedup.high:.2f}x"
    return Verdict("undecided", f"{start}, {ends} enclose {wanted:g}x wanted")

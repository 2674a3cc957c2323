"""The end of a run: finalists timed together, certified on `test` in a fixed order, the fastest certified one chosen.

The order is fixed before `test` is read: float32 first, then the most accurate on `validation` towards the fastest, and
the walk stops at the first that does not pass, so the error rate of the whole walk is that of one test however many
trials were made (Pareto Testing, Laufer-Goldshtein et al. 2023; Learn then Test, Angelopoulos et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from leanly.budget import Budget
from leanly.errors import LeanlyError
from leanly.measurement.records import Interval
from leanly.search import words
from leanly.search.driver import Search, is_float
from leanly.search.folder import TEST_USED
from leanly.search.outcome import Choice
from leanly.search.pareto import Point, fronts
from leanly.search.replay import PROOF
from leanly.search.trial import Trial

SLACK = 1.08
"""Trials this much slower than the front stay in: a short timing can't tell them apart."""

MOST_TIMED = 8
MOST_WALKED = 5


@dataclass
class Finale:
    """What the end of the run found; the trials in `search.trials` are replaced by ones with final timings."""

    front: tuple[int, ...] = ()
    walk: list[int] = field(default_factory=list)
    choices: dict[int, Choice] = field(default_factory=dict)
    speedup: Interval | None = None
    missed: tuple[str, ...] = ()


def finish(search: Search) -> Finale:
    """Time the finalists, certify them and choose.

    Args:
        search: after `explore`; interrupted or late ones get the short way: fewer finalists, less timing.
    """
    finale = Finale()
    hurried = search.interrupted or search.forecast.left < search.retime_seconds
    _time(search, hurried)
    points = [_point(search, trial) for trial in _fit(search)]
    finale.front = tuple(point.number for point in fronts(points, search.batch_sizes))
    if search.test is not None:
        _certify(search, finale, hurried)
    _choose(search, finale)
    finale.missed = missed(search.budget, search.trials, finale)
    return finale


def _fit(search: Search) -> list[Trial]:
    """Trials that have latencies and a metric and are not outside the budget on `validation`."""
    return [
        trial
        for trial in search.trials
        if trial.artifact and trial.latency and trial.metric is not None and (is_float(trial) or _not_failed(trial))
    ]


def _not_failed(trial: Trial) -> bool:
    return trial.verdict is not None and trial.verdict.outcome != "fail"


def _point(search: Search, trial: Trial) -> Point:
    latency = {size: trial.latency[size].median for size in search.batch_sizes}
    return Point(trial.number, latency, -math.inf if trial.metric is None else trial.metric)


def finalists(search: Search, most: int) -> list[Trial]:
    """Return who is timed together: the reference, the fastest floats, and the front, the fastest first."""
    fit = _fit(search)
    floats = [trial for trial in fit if is_float(trial)]
    chosen: dict[int, Trial] = {search.reference.number: search.reference}
    for size in search.batch_sizes:
        fastest = min(trial.latency[size].median for trial in floats)
        for trial in sorted(floats, key=lambda trial: trial.latency[size].median):
            if trial.latency[size].median <= fastest * SLACK:
                chosen.setdefault(trial.number, trial)
    # float32 keeps every number of the model: where another float format is faster, it is still the safe answer
    exact = [trial for trial in floats if trial.precision == "float32"]
    for size in search.batch_sizes:
        trial = min(exact, key=lambda trial: trial.latency[size].median)
        chosen.setdefault(trial.number, trial)
    kept = {point.number for point in fronts([_point(search, t) for t in fit], search.batch_sizes, slack=SLACK)}
    for trial in sorted((trial for trial in fit if trial.number in kept), key=search.mean_latency):
        if len(chosen) >= most:
            break
        chosen.setdefault(trial.number, trial)
    return list(chosen.values())


def _time(search: Search, hurried: bool) -> None:
    chosen = finalists(search, MOST_TIMED // 2 if hurried else MOST_TIMED)
    seconds = search.retime_seconds / 3 if hurried else search.retime_seconds
    artifacts = [trial.artifact for trial in chosen if trial.artifact is not None]
    search.listener.begin(f"timing {len(chosen)} finalists in turns", seconds, search.forecast.left)
    with search.forecast.step("retime"):
        timed = search.instruments.retime(artifacts, seconds)
    for trial, latency in zip(chosen, timed, strict=True):
        _replace(search, trial.replace(final=latency))


def _replace(search: Search, trial: Trial) -> None:
    search.trials = [trial if other.number == trial.number else other for other in search.trials]


def order(search: Search, most: int) -> list[Trial]:
    """Return the walk: float32 first, then the most accurate on `validation` of those worth choosing."""
    timed = [trial for trial in search.trials if trial.final and trial.number != search.reference.number]
    floats = [trial for trial in search.trials if trial.final and is_float(trial)]
    fastest = {size: min(trial.final[size].median for trial in floats) for size in search.batch_sizes}
    exact = [trial for trial in timed if trial.precision == "float32" and trial.candidate.unmodified]
    first = {
        min(exact, key=lambda trial: trial.final[size].median).number: None for size in search.batch_sizes if exact
    }
    worth = [
        trial
        for trial in timed
        if trial.number not in first
        and _not_failed(trial)
        # the fastest float itself, and what is faster than it at one batch size at least
        and any(trial.final[size].median <= fastest[size] for size in search.batch_sizes)
        and not _limits(search.budget, trial, search.batch_sizes)
    ]
    # few are walked: each one more is one more chance to stop before the fastest
    worth = sorted(worth, key=lambda trial: math.prod(trial.final[size].median for size in search.batch_sizes))[:most]
    worth.sort(key=lambda trial: (-(trial.metric or 0.0), -trial.final[search.batch_sizes[0]].median))
    return [*(trial for trial in timed if trial.number in first), *worth]


def _certify(search: Search, finale: Finale, hurried: bool) -> None:
    assert search.test is not None
    each = search.prove_seconds()
    affordable = int(max(search.forecast.left, 0.0) / max(each, 1e-9)) - 1
    walk = order(search, max(1, min(affordable - 1, 1 if hurried else MOST_WALKED)))
    if not walk:
        return
    # written before the split is read: a run killed in between has used it too
    search.journal.write(TEST_USED, digest=search.test.digest, walk=[trial.number for trial in walk])
    reference = search.reference
    for trial in (reference, *walk):
        if trial.artifact is None:
            continue
        search.listener.begin(f"certifying {trial.label} on {search.test.rows} test rows", each, search.forecast.left)
        try:
            with search.forecast.step("prove"):
                proof = search.instruments.prove(trial.artifact)
        except LeanlyError as error:
            search.notes.append(f"certification stopped at {trial.label}: {error}")
            return
        trial = trial.replace(proof=proof)
        proof.save(search.folder.trial(trial.number) / PROOF)
        if trial.number == reference.number:
            _replace(search, trial)
            reference = trial
            continue
        assert reference.proof is not None
        trial = trial.replace(certified=search.instruments.judge(reference.proof, proof))
        _replace(search, trial)
        finale.walk.append(trial.number)
        assert trial.certified is not None
        search.listener.say(f"{trial.label}: {trial.certified.outcome} on test ({trial.certified.reason})")
        if trial.certified.outcome != "pass":
            rest = [other.label for other in walk if other.number not in finale.walk]
            stopped = f"the walk on the test split stopped at {trial.label} ({trial.certified.outcome})"
            search.notes.append(stopped + (f"; not certified after it: {', '.join(rest)}" if rest else ""))
            return


def _eligible(search: Search, trial: Trial) -> bool:
    """Whether a trial may be best: certified, or passing on `validation` where there is no test split."""
    if trial.number == search.reference.number:
        return True  # its drop against itself is 0
    verdict = trial.verdict if search.test is None else trial.certified
    return verdict is not None and verdict.outcome == "pass"


def _choose(search: Search, finale: Finale) -> None:
    timed = [trial for trial in search.trials if trial.final]
    floats = [t for t in timed if is_float(t) and (t.precision == "float32" or _eligible(search, t))]
    pairs = []
    faster = False
    for size in search.batch_sizes:
        baseline = min(floats, key=lambda trial: trial.final[size].median)
        best = baseline if _eligible(search, baseline) else None
        speedup = None
        for trial in sorted(timed, key=lambda trial: trial.final[size].median):
            if trial.number == baseline.number or trial in floats or not _eligible(search, trial):
                continue
            if _limits(search.budget, trial, search.batch_sizes):
                continue
            interval = search.instruments.ratio(baseline.final[size], trial.final[size])
            if interval.low > 1.0:  # a model that isn't shown to be faster is never returned as faster
                best, speedup, faster = trial, interval, True
                break
        shipped = best or baseline
        eager = search.instruments.ratio(search.reference.final[size], shipped.final[size])
        finale.choices[size] = Choice(size, best.number if best else None, baseline.number, speedup, eager)
        pairs.append((baseline.final[size], shipped.final[size]))
    if faster:
        finale.speedup = search.instruments.mean_ratio(pairs)


def _limits(budget: Budget, trial: Trial, batch_sizes: Sequence[int]) -> list[str]:
    """Return the limits of the budget that a trial breaks, apart from the drop."""
    broken = []
    if budget.bytes is not None and trial.artifact is not None and trial.artifact.bytes > budget.bytes:
        broken.append(f"its artifact has {words.size(trial.artifact.bytes)}, {words.size(budget.bytes)} are allowed")
    if budget.latency is not None:
        for size in batch_sizes:
            median = trial.latency[size].median
            if median > budget.latency:
                broken.append(
                    f"a call of batch {size} takes {words.seconds(median)}, {words.seconds(budget.latency)} are allowed"
                )
    return broken


def missed(budget: Budget, trials: Sequence[Trial], finale: Finale) -> tuple[str, ...]:
    """Return the parts of the budget that what is shipped does not meet."""
    by_number = {trial.number: trial for trial in trials}
    broken: dict[str, None] = {}
    for size, choice in finale.choices.items():
        if choice.best is None:
            broken[f"no artifact is certified for batch {size}"] = None
        shipped = by_number[choice.shipped]
        for limit in _limits(budget, shipped, (size,)):
            broken[f"{shipped.label}: {limit}"] = None
    if budget.speedup is not None and budget.speedup > 1.0:
        reached = finale.speedup
        if reached is None or reached.low < budget.speedup:
            found = f"{words.times(reached)} was measured" if reached else "nothing faster was found"
            broken[f"a speed-up of {budget.speedup:g}x was asked for, {found}"] = None
    return tuple(broken)

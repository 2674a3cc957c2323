"""The end of a run: finalists timed together, certified on `test` in fixed orders, the fastest certified one chosen.

The orders are fixed before `test` is read: float32 first, then two branches, the whole network's artifacts and the
smaller networks', each from the surest of those that pass on `validation` on, then the undecided. A branch stops at the
first that does not pass and does not stop the other, since a smaller network that was taught may well hold what
integers of the whole one lose. The error rate of the whole walk is that of one test, however many trials were made
(`certify_walk`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from leanly.budget import Budget
from leanly.errors import LeanlyError
from leanly.measurement.judge import certify_walk, within
from leanly.measurement.latency import PROCESSES
from leanly.measurement.records import Interval, Verdict
from leanly.measurement.statistics import ratio_intervals
from leanly.search import words
from leanly.search.driver import Search, is_float
from leanly.search.folder import TEST_USED
from leanly.search.outcome import Choice
from leanly.search.pareto import Point, fronts
from leanly.search.replay import PROOF
from leanly.search.trial import Trial

ALIKE = 1.02
"""Finalists this near are as fast as each other: the same files differ by that from one process to the next."""

SLACK = 1.08
"""Trials this much slower than the front stay in: a short timing can't tell them apart."""

MOST_TIMED, FEW_TIMED = 9, 4

MOST_WALKED = 3
"""Artifacts of one branch: each one more is one more chance to stop before the fastest."""

STEADY = 2.0
"""Spread of the rounds up to which a machine is quiet: alone it was 1.1 to 1.7 here, beside other work up to 6."""

STARTING_SHARE = 0.5
"""Share of the room for timing that starting the finalists' processes may take."""

LEAST_PAIR_SECONDS = 0.05
"""Seconds of timing that an artifact and batch size get even when the time is over."""


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
    _time(search)
    points = [_point(search, trial) for trial in _fit(search)]
    finale.front = tuple(point.number for point in fronts(points, search.batch_sizes))
    if search.test is not None:
        _certify(search, finale)
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


def _passed(trial: Trial) -> bool:
    return trial.verdict is not None and trial.verdict.outcome == "pass"


def _point(search: Search, trial: Trial) -> Point:
    latency = {size: trial.medians[size] for size in search.batch_sizes}
    return Point(trial.number, latency, -math.inf if trial.metric is None else trial.metric)


def finalists(search: Search, most: int) -> list[Trial]:
    """Return who is timed together, the indispensable first.

    These are the reference, the fastest float and float32 artifacts, and at each batch size the fastest of the whole
    network, of what passes on `validation` and of all, and what is undecided there but nearest to passing; then, up to
    `most` in all, near ties among the floats and the front, the fastest first.
    """
    fit = _fit(search)
    floats = [trial for trial in fit if is_float(trial)]
    # float32 keeps every number of the model: where another float format is faster, it is still the safe answer
    exact = [trial for trial in floats if trial.precision == "float32"]
    chosen: dict[int, Trial] = {search.reference.number: search.reference}
    # what a smaller network gains is said against the whole one, quantized
    whole = [trial for trial in fit if not trial.candidate.network]
    sure = [trial for trial in fit if _passed(trial)] or floats
    for group in (floats, exact, whole, sure, fit):
        for size in search.batch_sizes:
            trial = min(group, key=lambda trial: trial.medians[size])
            chosen.setdefault(trial.number, trial)
    for trial in _likeliest(fit):
        chosen.setdefault(trial.number, trial)
    points = [_point(search, trial) for trial in fit]
    kept = {point.number for point in fronts(points, search.batch_sizes, slack=SLACK)}
    for size in search.batch_sizes:
        fastest = min(trial.medians[size] for trial in floats)
        kept |= {trial.number for trial in floats if trial.medians[size] <= fastest * SLACK}
    for trial in sorted((trial for trial in fit if trial.number in kept), key=search.mean_latency):
        if len(chosen) >= most:
            break
        chosen.setdefault(trial.number, trial)
    return list(chosen.values())


def _time(search: Search) -> None:
    start = search.start_seconds()
    room = search.forecast.left - search.certify_seconds()
    most = MOST_TIMED if start <= 0 else min(MOST_TIMED, int(STARTING_SHARE * max(room, 0.0) / (PROCESSES * start)))
    chosen = finalists(search, FEW_TIMED if search.interrupted else max(most, FEW_TIMED))
    least = LEAST_PAIR_SECONDS * len(chosen) * len(search.batch_sizes)
    # a second process of each where the room allows; it is nothing that the search has to keep time for
    several = not search.interrupted and PROCESSES * start * len(chosen) <= STARTING_SHARE * room
    processes = PROCESSES if several else 1
    ready = (processes * start + search.warm_seconds()) * len(chosen)
    wanted = search.retime_seconds / 3 if search.interrupted else search.retime_seconds
    seconds = min(wanted, max(room - ready, least))
    artifacts = [trial.artifact for trial in chosen if trial.artifact is not None]
    search.listener.begin(f"timing {len(chosen)} finalists in turns", seconds + ready, search.forecast.left)
    timed = search.instruments.retime(artifacts, seconds, processes)
    for trial, latency in zip(chosen, timed, strict=True):
        search.put(trial.replace(final=latency))
    spread, label, size = max(
        (latency.spread, trial.label, size)
        for trial, by_size in zip(chosen, timed, strict=True)
        for size, latency in by_size.items()
    )
    if spread > STEADY:
        search.notes.append(
            f"the final timings were disturbed ({label} at batch {size}: the slowest tenth of the rounds took "
            f"{spread:.1f}x the time of the fastest tenth): other work ran on this machine; time again when it is quiet"
        )


@dataclass(frozen=True)
class Walk:
    """Who is certified, in which orders: what `certify_walk` takes."""

    trunk: tuple[Trial, ...]
    branches: tuple[tuple[Trial, ...], ...]

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All of them, each once."""
        return (*self.trunk, *(trial for branch in self.branches for trial in branch))


def order(search: Search, most: int, seconds: float = math.inf) -> Walk:
    """Return the walk: float32 first, then those of the whole network and of smaller ones that are worth choosing.

    Args:
        search: after the finalists were timed.
        most: walked of each branch.
        seconds: that predicting the test split with the walk may take; one of each branch is always walked.
    """
    timed = [trial for trial in search.trials if trial.final and trial.number != search.reference.number]
    floats = [trial for trial in search.trials if trial.final and is_float(trial)]
    fastest = {size: min(trial.final[size].median for trial in floats) for size in search.batch_sizes}
    exact = [trial for trial in timed if trial.precision == "float32" and trial.candidate.unmodified]
    first = {
        min(exact, key=lambda trial: trial.final[size].median).number: None for size in search.batch_sizes if exact
    }
    trunk = tuple(trial for trial in timed if trial.number in first)
    worth = [
        trial
        for trial in timed
        if trial.number not in first
        and _not_failed(trial)
        # the fastest float itself, and what is faster than it at one batch size at least
        and any(trial.final[size].median <= fastest[size] for size in search.batch_sizes)
        and not broken_limits(search.budget, trial)
    ]
    whole = _best_first(search, [trial for trial in worth if not trial.candidate.network])[:most]
    smaller = _best_first(search, [trial for trial in worth if trial.candidate.network])[:most]
    seconds -= sum(map(search.prove_seconds, trunk))
    while max(len(whole), len(smaller)) > 1 and sum(map(search.prove_seconds, whole + smaller)) > seconds:
        (whole if len(whole) > len(smaller) else smaller).pop()
    return Walk(trunk, tuple(_surest_first(search, branch) for branch in (whole, smaller) if branch))


def _best_first(search: Search, trials: list[Trial]) -> list[Trial]:
    """Order by how much the walk would lose without a trial."""
    sure, fast = _fastest(search, [trial for trial in trials if _passed(trial)]), _fastest(search, trials)
    likely = _likeliest(trials)

    def rank(trial: Trial) -> int:
        groups = (trial.number in sure, is_float(trial), trial in likely, trial.number in fast)
        return groups.index(True) if True in groups else len(groups)

    return sorted(trials, key=lambda trial: (rank(trial), search.mean_latency(trial)))


def _surest_first(search: Search, trials: list[Trial]) -> tuple[Trial, ...]:
    """Order as they are certified: what is undecided on `validation` would stop the walk before what passed there."""
    return tuple(
        sorted(
            trials,
            key=lambda trial: (
                not _passed(trial),
                _chance_of_failing(trial),
                -trial.final[search.batch_sizes[0]].median,
            ),
        )
    )


def _likeliest(trials: Sequence[Trial]) -> list[Trial]:
    """The one of those undecided on `validation` that is the nearest to passing; none where all pass."""
    return sorted((trial for trial in trials if not _passed(trial)), key=_chance_of_failing)[:1]


def _chance_of_failing(trial: Trial) -> float:
    verdict = trial.verdict
    return 1.0 if verdict is None or verdict.p_value is None else verdict.p_value


def _fastest(search: Search, trials: Sequence[Trial]) -> set[int]:
    """Numbers of the fastest at each batch size; of those that can't be told apart the most accurate."""
    if not trials:
        return set()
    found = set()
    for size in search.batch_sizes:
        limit = ALIKE * min(trial.final[size].median for trial in trials)
        alike = [trial for trial in trials if trial.final[size].median <= limit]
        found.add(max(alike, key=lambda trial: -math.inf if trial.metric is None else trial.metric).number)
    return found


def _certify(search: Search, finale: Finale) -> None:
    assert search.test is not None
    seconds = search.forecast.left - search.prove_seconds(search.reference)
    walk = order(search, 1 if search.interrupted else MOST_WALKED, seconds)
    if not walk.trials:
        return
    # written before the split is read: a run killed in between has used it too
    search.journal.write(TEST_USED, digest=search.test.digest, walk=[trial.number for trial in walk.trials])
    level = 1 - search.budget.confidence
    try:
        _prove(search, search.reference)
        certify_walk(walk.trunk, walk.branches, level, functools.partial(_certified, search, finale))
    except LeanlyError as error:
        search.notes.append(f"the certification stopped: {error}")
    for trial in map(search.trial, finale.walk):
        if trial.certified is not None and trial.certified.outcome != "pass":
            search.notes.append(f"the walk on the test split stopped at {trial.label} ({trial.certified.outcome})")
    if rest := [trial.label for trial in walk.trials if trial.number not in finale.walk]:
        search.notes.append(f"not certified, since the walk stopped before it: {', '.join(rest)}")


def _prove(search: Search, trial: Trial) -> Trial:
    assert search.test is not None and trial.artifact is not None
    what = f"certifying {trial.label} on {search.test.rows:,} test rows"
    search.listener.begin(what, search.prove_seconds(trial), search.forecast.left)
    proof = search.instruments.prove(trial.artifact)
    proof.save(search.folder.trial(trial.number) / PROOF)
    trial = trial.replace(proof=proof)
    search.put(trial)
    return trial


def _certified(search: Search, finale: Finale, trial: Trial, level: float) -> Verdict:
    trial = search.trial(trial.number)
    if trial.number not in finale.walk:
        trial = _prove(search, trial)
        finale.walk.append(trial.number)
    reference = search.reference.proof
    assert reference is not None and trial.proof is not None
    verdict = search.instruments.judge(reference, trial.proof, 1 - level)
    search.put(trial.replace(certified=verdict))
    search.listener.say(f"{trial.label}: {verdict.outcome} on test ({verdict.reason})")
    return verdict


def _eligible(search: Search, trial: Trial) -> bool:
    """Whether a trial may be best: certified, or passing on `validation` where there is no test split."""
    if trial.number == search.reference.number:
        return True  # its drop against itself is 0
    verdict = trial.verdict if search.test is None else trial.certified
    return verdict is not None and verdict.outcome == "pass"


def _choose(search: Search, finale: Finale) -> None:
    timed = [trial for trial in search.trials if trial.final]
    floats = [t for t in timed if is_float(t) and (t.precision == "float32" or _eligible(search, t))]
    bases, chosen = {}, {}
    for size in search.batch_sizes:
        baseline = min(floats, key=lambda trial: trial.final[size].median)
        best = baseline if _eligible(search, baseline) else None
        speedup = None
        for trial in sorted(timed, key=lambda trial: trial.final[size].median):
            if trial in floats or not _eligible(search, trial) or broken_limits(search.budget, trial):
                continue
            interval = _speedup(search, baseline, trial, size)
            if interval.low > 1.0:  # a model that isn't shown to be faster is never returned as faster
                best, speedup = trial, interval
                break
        shipped = best or baseline
        eager = _speedup(search, search.reference, shipped, size)
        for trial in (baseline, shipped):
            # a short timing may have dropped what the long one chose
            search.put(trial.replace(state="measured", reason=""))
        finale.choices[size] = Choice(size, best.number if best else None, baseline.number, speedup, eager)
        bases[size], chosen[size] = baseline.final[size], shipped.final[size]
    if any(choice.speedup for choice in finale.choices.values()):
        finale.speedup = ratio_intervals(bases, chosen, search.budget.confidence)[1]


def _speedup(search: Search, slow: Trial, fast: Trial, size: int) -> Interval:
    return ratio_intervals({size: slow.final[size]}, {size: fast.final[size]}, search.budget.confidence)[1]


def broken_limits(budget: Budget, trial: Trial) -> str:
    """Return why a trial is not shown to be inside the budget's bytes and latency; empty when it is."""
    if trial.measurement is None:
        return "it was not measured"
    verdict = within(replace(trial.measurement, latency=trial.latency), replace(budget, speedup=None))
    return "" if verdict.outcome == "pass" else verdict.reason


def missed(budget: Budget, trials: Sequence[Trial], finale: Finale) -> tuple[str, ...]:
    """Return the parts of the budget that what is shipped does not meet."""
    by_number = {trial.number: trial for trial in trials}
    broken: dict[str, None] = {}
    for size, choice in finale.choices.items():
        if choice.best is None:
            broken[f"no artifact is certified for batch {size}"] = None
        shipped = by_number[choice.shipped]
        if limit := broken_limits(budget, shipped):
            broken[f"{shipped.label}: {limit}"] = None
    if budget.speedup is not None and budget.speedup > 1.0:
        reached = finale.speedup
        if reached is None or reached.low < budget.speedup:
            found = f"{words.times(reached)} was measured" if reached else "nothing faster was found"
            broken[f"a speed-up of {budget.speedup:g}x was asked for, {found}"] = None
    return tuple(broken)

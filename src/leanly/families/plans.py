"""Other ways to run files that are there: threads, streams and fixed shapes, each for the fastest artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from leanly.artifact import Plan
from leanly.families.candidate import INTEGER_RUNTIMES, Candidate, Seen, labelled, mean_latency
from leanly.target import Target


def other_ways(target: Target, trials: Sequence[Seen]) -> Iterator[Candidate]:
    """Other threads and streams, for the fastest artifact and, to be fair, for the fastest float one."""
    good = [trial for trial in trials if trial.medians and trial.outcome != "fail" and not trial.candidate.plans]
    good = [trial for trial in good if trial.candidate.runtime in INTEGER_RUNTIMES]
    floats = [trial for trial in good if trial.candidate.unmodified]
    for name, plans in _plans(target):
        # the float artifact first: what would help both must not count as a gain of int8
        for group in (floats, good):
            for base in _fastest_by_size(group):
                if (name, base.runtime) != ("fixed shapes", "openvino"):
                    yield replace(base, label=labelled(base.label, name), plans=plans)


def _plans(target: Target) -> Iterator[tuple[str, dict[int, Plan]]]:
    threads, sizes = target.threads, target.batch_sizes
    if threads > 1:
        pieces = sorted({-(-size // threads) for size in sizes if size >= threads}, reverse=True)
        for rows in dict.fromkeys([*pieces[:1], *(piece // 2 for piece in pieces[:1] if piece >= 4)]):
            yield f"{threads} streams of {rows} rows", {size: _streams(target, size, rows) for size in sizes}
        yield "one thread", {size: Plan(threads=1, static=True) for size in sizes}
    yield "fixed shapes", {size: Plan(threads=threads, static=True) for size in sizes}


def _streams(target: Target, size: int, rows: int) -> Plan:
    """Rows of a large batch go through streams side by side; a small batch uses all threads at once."""
    if size <= rows:
        return Plan(threads=target.threads, static=True)
    return Plan(threads=1, streams=target.threads, rows=rows, static=size % rows == 0)


def _fastest_by_size(trials: Sequence[Seen]) -> list[Candidate]:
    """Return the fastest over all batch sizes, and the fastest at each."""
    if not trials:
        return []
    fastest = [min(trials, key=mean_latency)]
    fastest += [min(trials, key=lambda trial: trial.medians[size]) for size in trials[0].medians]
    return list({trial.candidate.key: trial.candidate for trial in fastest}.values())

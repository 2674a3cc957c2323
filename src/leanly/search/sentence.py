"""The verdict of a run as sentences: what is shipped, how much faster, how sure, with figures and units."""

from __future__ import annotations

from leanly.measurement.records import Verdict
from leanly.search import words
from leanly.search.outcome import Outcome
from leanly.search.trial import Trial


def verdict_sentence(outcome: Outcome) -> str:
    """Return the verdict on a finished run.

    Args:
        outcome: everything else of it filled in.
    """
    best = outcome.best_by_batch
    if not best:
        kept = " and ".join(_names(outcome.float_by_batch))
        return (
            f"No artifact could be shown to be inside the budget (a drop of at most {_allowed(outcome)}); "
            f"the fastest float artifact, {kept}, was kept. {_proof(outcome)}"
        )
    faster = {size: choice for size, choice in outcome.choices.items() if choice.speedup is not None}
    if not any(trial.artifact and trial.measurement for trial in outcome.trials[1:]):
        return f"Keep {outcome.reference.label}: nothing else was measured, the time was too short. {_proof(outcome)}"
    if not faster:
        names = " and ".join(_names(outcome.shipped_by_batch))
        sentence = f"Keep {names}: nothing inside the budget was shown to be faster than this float artifact"
        return f"{sentence}{_eager(outcome)}. {_proof(outcome)}"
    pairs: dict[tuple[int, int], list[int]] = {}
    for size, choice in faster.items():
        pairs.setdefault((choice.shipped, choice.float_best), []).append(size)
    sentence = "; ".join(_faster(outcome, *pair, sizes) for pair, sizes in pairs.items())
    kept = [size for size in outcome.choices if size not in faster]
    if kept:
        sizes = ", ".join(map(str, kept))
        sentence += f"; at batch {sizes} {outcome.trial(outcome.choices[kept[0]].shipped).label} stays"
    return f"{sentence}{_eager(outcome)}. {_proof(outcome)}"


def _faster(outcome: Outcome, shipped: int, float_best: int, sizes: list[int]) -> str:
    best, base = outcome.trial(shipped), outcome.trial(float_best)
    parts = []
    for size in sizes:
        speedup = outcome.choices[size].speedup
        assert speedup is not None
        times = f"{words.seconds(best.latency[size].median)} against {words.seconds(base.latency[size].median)}"
        parts.append(f"{words.times(speedup)} faster at batch {size} ({times})")
    return f"{best.label}: {' and '.join(parts)} than the fastest float artifact, {base.label}"


def _eager(outcome: Outcome) -> str:
    parts = [
        f"{words.times(choice.eager_speedup)} at batch {size}"
        for size, choice in outcome.choices.items()
        if choice.eager_speedup is not None and choice.shipped != outcome.reference.number
    ]
    return f"; against eager PyTorch {' and '.join(parts)}" if parts else ""


def _proof(outcome: Outcome) -> str:
    shipped = {trial.number: trial for trial in outcome.shipped_by_batch.values()}
    if outcome.test is None:
        pieces = [_scores(outcome, trial, trial.verdict, "validation") for trial in shipped.values()]
        return f"Not certified, since the task has no test split. {' '.join(pieces)}".rstrip()
    pieces = []
    for trial in shipped.values():
        if trial.number == outcome.reference.number:
            pieces.append(f"{trial.label} is the model itself: its drop is 0 by definition.")
        elif trial.certified is None:
            pieces.append(f"{trial.label} was not reached by the certification.")
        else:
            pieces.append(_scores(outcome, trial, trial.certified, "test"))
    uses = outcome.test["uses"]
    if uses:
        times = "once" if uses == 1 else f"{uses} times"
        pieces.append(f"This test split has been used {times} in this folder and beside it.")
    return " ".join(pieces)


def _scores(outcome: Outcome, trial: Trial, verdict: Verdict | None, split: str) -> str:
    if verdict is None:
        return ""
    reference = outcome.reference.proof if split == "test" else outcome.reference.measurement
    measured = trial.proof if split == "test" else trial.measurement
    if reference is None or measured is None:
        return ""
    word = {"pass": "Certified" if split == "test" else "Passes", "fail": "Fails", "undecided": "Undecided"}
    scores = (
        f"{outcome.metric} {words.metric(measured.metric, outcome.metric)} against "
        f"{words.metric(reference.metric, outcome.metric)} for the float32 model"
    )
    said = f"{word[verdict.outcome]} on {verdict.n:,} {split} rows ({trial.label})"
    return f"{said}: {scores}; {verdict.reason.rstrip('.')}."


def _allowed(outcome: Outcome) -> str:
    return words.drop(outcome.budget["max_drop"], outcome.metric)


def _names(trials: dict[int, Trial]) -> list[str]:
    return list(dict.fromkeys(trial.label for trial in trials.values()))

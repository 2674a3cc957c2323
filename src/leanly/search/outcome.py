"""Outcome: everything a run ended in, as data, and its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from leanly.errors import RunError
from leanly.files import read_json, write_json
from leanly.measurement.records import Interval
from leanly.search.folder import OUTCOME_FILE, RunFolder
from leanly.search.journal import read_events
from leanly.search.replay import all_trials, read_trial, trial_json
from leanly.search.trial import Trial


@dataclass(frozen=True)
class Choice:
    """What is shipped for one batch size.

    Args:
        batch_size: rows in a call.
        best: number of the fastest trial that is certified inside the budget (without a test split: that passes on
            `validation`); None when there is none.
        float_best: number of the unmodified model's fastest float artifact, which speed-ups are against.
        speedup: latency of `float_best` over latency of `best`; None when they are the same or there is no best.
        eager_speedup: latency of the reference (eager PyTorch) over latency of what is shipped.
    """

    batch_size: int
    best: int | None
    float_best: int
    speedup: Interval | None = None
    eager_speedup: Interval | None = None

    @property
    def shipped(self) -> int:
        """The best, or the fastest float artifact where nothing is certified."""
        return self.float_best if self.best is None else self.best


@dataclass(frozen=True)
class Outcome:
    """What a run ended in.

    Args:
        run: its folder.
        task: name of the task.
        metric: name of the metric.
        budget, target, machine, versions: as JSON.
        trials: all of them; number 0 is the reference.
        front: numbers on the Pareto front of latency against metric, the most accurate first.
        walk: numbers in the order in which they were certified on `test`.
        choices: by batch size, what is shipped.
        speedup: geometric mean over the batch sizes against the fastest float artifacts; None when nothing is faster.
        test: rows and hash of the test split and how often it was used; None without one.
        missed: the parts of the budget that are not met, as sentences; empty when all are.
        notes: what else should be known.
        sentence: the verdict.
        seconds: what the run took.
        finished: whether the run reached its end.
    """

    run: Path
    task: str
    metric: str
    budget: dict[str, Any]
    target: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    trials: tuple[Trial, ...]
    front: tuple[int, ...] = ()
    walk: tuple[int, ...] = ()
    choices: dict[int, Choice] = field(default_factory=dict)
    speedup: Interval | None = None
    test: dict[str, Any] | None = None
    missed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sentence: str = ""
    seconds: float = 0.0
    finished: bool = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.run)!r}: {self.sentence})"

    def trial(self, number: int) -> Trial:
        """Return the trial with a number."""
        return next(trial for trial in self.trials if trial.number == number)

    @property
    def reference(self) -> Trial:
        """The float32 model in eager PyTorch: drops are against it."""
        return self.trials[0]

    @property
    def pareto(self) -> tuple[Trial, ...]:
        """The Pareto front of latency against metric on `validation`, the most accurate first."""
        return tuple(self.trial(number) for number in self.front)

    @property
    def best_by_batch(self) -> dict[int, Trial]:
        """By batch size, the fastest trial that is certified inside the budget."""
        return {size: self.trial(choice.best) for size, choice in self.choices.items() if choice.best is not None}

    @property
    def float_by_batch(self) -> dict[int, Trial]:
        """By batch size, the unmodified model's fastest float artifact."""
        return {size: self.trial(choice.float_best) for size, choice in self.choices.items()}

    @property
    def shipped_by_batch(self) -> dict[int, Trial]:
        """By batch size, what a bundle holds: the best, or the fastest float artifact where nothing is certified."""
        return {size: self.trial(choice.shipped) for size, choice in self.choices.items()}

    @property
    def best(self) -> Trial | None:
        """The best trial of the first batch size; None when nothing is certified inside the budget."""
        return next(iter(self.best_by_batch.values()), None)

    @property
    def float_best(self) -> Trial | None:
        """The fastest float artifact of the first batch size."""
        return next(iter(self.float_by_batch.values()), None)

    @property
    def certified(self) -> bool:
        """Whether what is best was certified on a test split."""
        best = self.best_by_batch.values()
        return (
            self.test is not None
            and bool(best)
            and all(trial.number == 0 or (trial.certified and trial.certified.outcome == "pass") for trial in best)
        )

    @property
    def met(self) -> bool:
        """Whether the best is inside the whole budget at every batch size."""
        return self.finished and len(self.best_by_batch) == len(self.choices) > 0 and not self.missed

    def save(self) -> None:
        """Write the outcome into its run; raw samples and predictions lie in the folders of the trials."""
        plain = {
            name: getattr(self, name)
            for name in (
                "task",
                "metric",
                "budget",
                "target",
                "machine",
                "versions",
                "test",
                "sentence",
                "seconds",
                "finished",
            )
        }
        write_json(
            self.run / OUTCOME_FILE,
            {
                **plain,
                "trials": [trial_json(trial, self.run) for trial in self.trials],
                "front": list(self.front),
                "walk": list(self.walk),
                "choices": [asdict(choice) for choice in self.choices.values()],
                "speedup": self.speedup.to_json() if self.speedup else None,
                "missed": list(self.missed),
                "notes": list(self.notes),
            },
        )


def open_outcome(run: str | Path) -> Outcome:
    """Read the outcome of a run; of one that did not end, what its journal holds.

    Raises:
        RunError: the folder is no run, or it is damaged.
    """
    folder = RunFolder(Path(run))
    about = folder.read()
    if not folder.outcome.exists():
        return _unfinished(folder, about)
    data = read_json(folder.outcome)
    try:
        return Outcome(
            run=folder.path,
            trials=tuple(read_trial(entry, folder.path) for entry in data.pop("trials")),
            front=tuple(data.pop("front")),
            walk=tuple(data.pop("walk")),
            choices={entry["batch_size"]: _choice(entry) for entry in data.pop("choices")},
            speedup=_interval(data.pop("speedup")),
            missed=tuple(data.pop("missed")),
            notes=tuple(data.pop("notes")),
            **data,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            f"the outcome of the run is damaged ({error!r})",
            where=str(folder.outcome),
            remedy="run again with resume=True",
        ) from error


def _choice(data: dict[str, Any]) -> Choice:
    speedup, eager = _interval(data.pop("speedup")), _interval(data.pop("eager_speedup"))
    return Choice(**data, speedup=speedup, eager_speedup=eager)


def _interval(data: dict[str, Any] | None) -> Interval | None:
    return None if data is None else Interval.from_json(data)


def _unfinished(folder: RunFolder, about: dict[str, Any]) -> Outcome:
    events, _ = read_events(folder.journal)
    trials = all_trials(events, folder.path)
    if not trials:
        raise RunError(
            "the run has no trial yet", where=str(folder.path), remedy="go on with it: resume=True or --resume"
        )
    return Outcome(
        run=folder.path,
        task=about["task"]["name"],
        metric=about["metric"],
        budget=about["budget"],
        target=about["target"],
        machine=about["machine"],
        versions=about["versions"],
        trials=tuple(trials),
        sentence="The run has not ended: nothing is certified. Go on with it by --resume.",
    )

"""The real instruments: workers that time, predict and are judged; the float artifact to beat stays open."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from leanly.artifact import Artifact
from leanly.budget import Budget
from leanly.errors import DataError, LeanlyWarning
from leanly.measurement.constancy import says_the_same
from leanly.measurement.inputs import timing_inputs
from leanly.measurement.judge import judge
from leanly.measurement.latency import open_workers, time_in_turns, time_workers
from leanly.measurement.measuring import describe, predict_rows
from leanly.measurement.records import Interval, Latency, Measurement, Verdict
from leanly.measurement.statistics import ratio_intervals
from leanly.measurement.workers import Worker
from leanly.search.protocols import START, Instruments
from leanly.target import Target

if TYPE_CHECKING:
    from leanly.data import Split
    from leanly.task import Task


class Bench:
    """Measures the artifacts of one task on one target; use it as a context manager.

    Args:
        task: gives the data and the metric.
        target: batch sizes and threads.
        budget: the drop that is judged.
        seed: of the order of the turns.
        note: told what starting a process took, for the forecast.
    """

    def __init__(
        self,
        task: Task,
        target: Target,
        budget: Budget,
        *,
        seed: int = 0,
        note: Callable[[str, float], None] = lambda kind, seconds: None,
    ) -> None:
        self._note = note
        self._task, self._target, self._budget, self._seed = task, target, budget, seed
        self._anchor: Worker | None = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop_anchor()

    def instruments(self) -> Instruments:
        """Return the functions the driver is handed."""
        return Instruments(self.measure, self.retime, self.prove, self.judge)

    def measure(
        self, artifact: Artifact, anchor: Artifact | None, seconds: float
    ) -> tuple[Measurement, dict[int, Interval]]:
        """Measure on `validation`, in turns with the anchor."""
        split = self._split("validation")
        inputs = timing_inputs(artifact, self._task, split, self._target.batch_sizes)
        began = time.monotonic()
        with open_workers([artifact], self._target.threads) as workers:
            self._note(START, time.monotonic() - began)
            if anchor is not None:
                workers.append(self._open_anchor(anchor))
            each = seconds / (len(workers) * len(inputs))
            latencies = time_workers(workers, inputs, seconds=each, seed=self._seed)
            worker = workers[0]
            peak = worker.peak_memory()
            measurement = self._predict(worker, split, latencies[0], peak)
        if anchor is None and says_the_same(measurement.predictions, self._task.metric):
            warnings.warn(
                f"The network predicts the same for all {len(split):,} rows of {split.name!r}: whatever becomes of it, "
                f"{self._task.metric.name} will hardly tell. What to do: look at its weights and at how the rows are "
                "prepared.",
                LeanlyWarning,
                stacklevel=2,
            )
        ratio = ratio_intervals(latencies[0], latencies[1], self._budget.confidence)[0] if anchor is not None else {}
        return measurement, ratio

    def retime(self, artifacts: Sequence[Artifact], seconds: float, processes: int) -> list[dict[int, Latency]]:
        """Time artifacts in turns, each in so many processes, `seconds` for all of them together."""
        self._drop_anchor()
        inputs = timing_inputs(artifacts[0], self._task, self._split("validation"), self._target.batch_sizes)
        each = seconds / (len(artifacts) * len(inputs))
        return time_in_turns(artifacts, self._target, inputs, seconds=each, seed=self._seed + 1, processes=processes)

    def prove(self, artifact: Artifact) -> Measurement:
        """Predict and score `test`."""
        split = self._split("test")
        with Worker(artifact, self._target.threads) as worker:
            return self._predict(worker, split, {}, None)

    def _predict(self, worker: Worker, split: Split, latency: dict[int, Latency], peak: int | None) -> Measurement:
        began = time.monotonic()
        predictions = predict_rows(worker, split)
        taken = time.monotonic() - began
        return describe(worker, self._target, self._task, split, latency, peak, predictions, taken)

    def judge(self, reference: Measurement, candidate: Measurement, confidence: float) -> Verdict:
        """Judge the drop between two measurements of the same split."""
        targets = self._split(candidate.split or "validation").targets
        budget = replace(self._budget, confidence=confidence)
        return judge(reference.predictions, candidate.predictions, targets, self._task.metric, budget)

    def _split(self, name: str) -> Split:
        split = self._task.split(name)
        if split is None:
            raise DataError(f"the task has no {name} split", where="Task", remedy=f"give {name}=(inputs, targets)")
        return split

    def _open_anchor(self, artifact: Artifact) -> Worker:
        if self._anchor is None or self._anchor.artifact != artifact:
            self._drop_anchor()
            self._anchor = Worker(artifact, self._target.threads)
            self._anchor.pause()
        return self._anchor

    def _drop_anchor(self) -> None:
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None

"""Measure one artifact, compare two, or predict a whole split, each in the runtime it will run in."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leanly.artifact import Artifact
from leanly.errors import DataError, WorkerError
from leanly.measurement.inputs import carries_batch, check_fit, flat_arrays, timing_inputs
from leanly.measurement.latency import PROCESSES, Progress, open_workers, time_workers, together
from leanly.measurement.records import Comparison, Latency, Measurement, PairedDrop
from leanly.measurement.statistics import paired_drop, ratio_intervals
from leanly.measurement.workers import Worker
from leanly.structure import build
from leanly.target import Target

if TYPE_CHECKING:
    from leanly.data import Split
    from leanly.task import Task

PREDICT_ROWS = 64


def measure(
    artifact: Artifact,
    target: Target,
    task: Task | None = None,
    *,
    split: str = "validation",
    seconds: float = 2.0,
    on_progress: Progress | None = None,
) -> Measurement:
    """Measure an artifact on the target, in a process of its own.

    Args:
        artifact: what `lower` made.
        target: its batch sizes and threads.
        task: gives the data; without it the inputs are made up and nothing is scored.
        split: which split is predicted and scored, where the task has it.
        seconds: of timing for each batch size.
        on_progress: called with the share of the timing that is done.

    Raises:
        WorkerError: the artifact can't be opened, or its process dies.
    """
    return measure_in_turns([artifact], target, task, split=split, seconds=seconds, on_progress=on_progress)[0]


def measure_in_turns(
    artifacts: Sequence[Artifact],
    target: Target,
    task: Task | None = None,
    *,
    split: str = "validation",
    seconds: float = 2.0,
    seed: int = 0,
    processes: int = 1,
    on_progress: Progress | None = None,
) -> list[Measurement]:
    """Measure several artifacts, timed in turns so that their latencies pair up by round.

    Args:
        artifacts: of the same task.
        target: its batch sizes and threads.
        task: gives the data; without it the inputs are made up and nothing is scored.
        split: which split is predicted and scored, where the task has it.
        seconds: of timing for each artifact and batch size.
        seed: of the order of the turns.
        processes: in which each artifact is timed; the time is shared among them.
        on_progress: called with the share of the timing that is done.

    Raises:
        SettingError: the target is a GPU.
        WorkerError: an artifact can't be opened, or its process dies.
    """
    target.check_measurable()
    rows = task.split(split) if task is not None else None
    inputs = timing_inputs(artifacts[0], task, rows, target.batch_sizes)
    for other in artifacts[1:]:
        for arrays in inputs.values():
            check_fit(other, arrays)
    found: list[Measurement] = []
    with open_workers([*artifacts] * processes, target.threads) as workers:
        timed = time_workers(workers, inputs, seconds=seconds / processes, seed=seed, on_progress=on_progress)
        for worker, latency in zip(workers[: len(artifacts)], together(timed, processes), strict=True):
            # Read before predicting: a larger batch there would count as the artifact's own need.
            peak = worker.peak_memory()
            began = time.monotonic()
            predictions = predict_rows(worker, rows) if rows is not None else None
            taken = time.monotonic() - began if rows is not None else None
            worker.pause()
            found.append(describe(worker, target, task, rows, latency, peak, predictions, taken))
    return found


def compare(
    a: Artifact,
    b: Artifact,
    target: Target,
    task: Task | None = None,
    *,
    split: str = "validation",
    seconds: float = 4.0,
    confidence: float = 0.95,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Comparison:
    """Compare two artifacts: the paired ratio of their latencies, and the drop in the metric from `b` to `a`.

    Each is timed in two processes: what differs from one to the next is no difference between the artifacts.

    Args:
        a, b: artifacts of the same task; a ratio below 1 says that `a` is faster.
        target: its batch sizes and threads.
        task: gives the data; without it nothing is scored.
        split: which split is scored, where the task has it.
        seconds: of timing for each artifact and batch size.
        confidence: of the intervals.
        seed: of the turns and the resamples.
        on_progress: called with the share of the timing that is done.

    Raises:
        WorkerError: an artifact can't be opened, or its process dies.
    """
    first, second = measure_in_turns(
        [a, b], target, task, split=split, seconds=seconds, seed=seed, processes=PROCESSES, on_progress=on_progress
    )
    ratios, mean = ratio_intervals(first.latency, second.latency, confidence, seed=seed)
    drop: PairedDrop | None = None
    rows = task.split(split) if task is not None else None
    if task is not None and rows is not None:
        drop = paired_drop(task.metric, second.predictions, first.predictions, rows.targets, 0.0, confidence)
    return Comparison(first, second, ratios, mean, drop)


def predict(
    artifact: Artifact, target: Target, split: Split, *, threads: int | None = None, batch_size: int = PREDICT_ROWS
) -> Any:
    """Predict a whole split in a process of its own, read and written batch by batch.

    Args:
        artifact: what predicts.
        target: its threads, where `threads` is None.
        split: rows in its fixed order.
        threads: worker threads.
        batch_size: rows in a call; the last call takes what is left.

    Returns:
        Numpy arrays in the model's own structure, all rows in order.

    Raises:
        WorkerError: the artifact can't be opened, or its process dies.
    """
    with Worker(artifact, threads or target.threads) as worker:
        return predict_rows(worker, split, batch_size)


def predict_rows(worker: Worker, split: Split, batch_size: int = PREDICT_ROWS) -> Any:
    """Predict a whole split in a worker that is open already.

    Args:
        worker: holds the artifact.
        split: rows in its fixed order.
        batch_size: rows in a call; the last call takes what is left.

    Raises:
        WorkerError: the process dies, or gives another number of rows than it got.
        DataError: the outputs of different batches don't fit together.
    """
    split.arguments.check_order(worker.artifact.inputs, f"split {split.name!r}")
    specs = worker.artifact.outputs
    parts: list[list[np.ndarray]] = [[] for _ in specs]
    for tensors, targets in split.flat_batches(batch_size):
        outputs = worker.predict(flat_arrays(worker.artifact, tensors))
        for spec, output, part in zip(specs, outputs, parts, strict=True):
            if carries_batch(spec) and len(output) != len(targets):
                raise WorkerError(
                    f"output {spec.name} has {len(output)} rows for {len(targets)} inputs",
                    where=str(worker.artifact.folder),
                    remedy="lower the model again: its batch was fixed on the way",
                )
            # What does not carry the batch is the same for every row.
            if carries_batch(spec) or not part:
                part.append(output)
    try:
        joined = zip(specs, parts, strict=True)
        whole = [np.concatenate(part) if carries_batch(spec) else part[0] for spec, part in joined]
    except ValueError as error:
        raise DataError(
            f"the outputs of different batches don't fit together ({error})",
            where=f"split {split.name!r}",
            remedy="pad all rows of the split to the same length",
        ) from error
    return build(worker.artifact.returns, whole)


def describe(
    worker: Worker,
    target: Target,
    task: Task | None,
    split: Split | None,
    latency: dict[int, Latency],
    peak: int | None,
    predictions: Any,
    predict_seconds: float | None,
) -> Measurement:
    """Put together what was measured in a worker, and score the predictions.

    Args:
        worker: knows the artifact and how long it took to open.
        target: tells the machine and the versions.
        task: scores the predictions of the split.
        split: what was predicted, None when nothing was.
        latency: by batch size.
        peak: bytes by which the worker's memory has grown.
        predictions: numpy arrays in the model's own structure.
        predict_seconds: what they took.
    """
    machine = {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in dataclasses.asdict(target.machine).items()
    }
    score: Callable[[Any, Any], float] | None = task.score if task is not None else None
    return Measurement(
        runtime=worker.artifact.runtime,
        precision=worker.artifact.precision,
        threads=target.threads,
        latency=latency,
        open_seconds=worker.open_seconds,
        peak_memory_bytes=peak,
        artifact_bytes=worker.artifact.bytes,
        split=split.name if split is not None else None,
        metric=score(predictions, split.targets) if score is not None and split is not None else None,
        predictions=predictions,
        predict_seconds=predict_seconds,
        machine=machine,
        versions=target.versions(),
    )

"""Profile: the seconds of each node of an artifact, by the runtime's own profiler, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leanly.artifact import Artifact
from leanly.measurement.inputs import timing_inputs
from leanly.measurement.workers import Worker
from leanly.scalars import check_whole

if TYPE_CHECKING:
    from leanly.task import Task

CALLS = 50


def profile(
    artifact: Artifact, task: Task | None = None, *, batch_size: int = 1, threads: int = 1, calls: int = CALLS
) -> dict[str, float]:
    """Return the median seconds of each node as the runtime executes it; empty where the runtime does not tell.

    Args:
        artifact: what `lower` made.
        task: gives the rows, the first of `validation`; without it the inputs are made up.
        batch_size: rows in a call.
        threads: worker threads.
        calls: over which the median is taken.

    Raises:
        SettingError: no calls, rows or threads.
        WorkerError: the artifact can't be opened, or its process dies.
    """
    for name, value in (("batch_size", batch_size), ("threads", threads), ("calls", calls)):
        check_whole(value, 1, name=name, where="profile")
    split = task.split("validation") if task is not None else None
    with Worker(artifact, threads) as worker:
        worker.load("profiled", timing_inputs(artifact, task, split, (batch_size,))[batch_size])
        return worker.profile("profiled", calls)

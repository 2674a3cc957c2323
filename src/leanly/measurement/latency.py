"""Timing in turns: every artifact in its own process, one block of calls at a time, in shuffled order."""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from leanly.artifact import Artifact
from leanly.measurement.records import Latency
from leanly.measurement.workers import Worker
from leanly.target import Target

BLOCK_SECONDS = 0.03
DISCARD_SECONDS = 0.005
"""At the start of a block caches and clocks come back; these calls don't count."""
FEWEST_CALLS, MOST_CALLS = 3, 5000
LONG_CALL_SECONDS = 0.1
"""Before a call this long none is discarded: what it finds cold at its start is a small part of it."""
ROUNDS, FEWEST_ROUNDS = 10, 5
"""A bootstrap over rounds wants ten; where ten take longer than `PATIENCE` times the time asked, five must do."""
PATIENCE = 1.5
WARM_SECONDS = 1.0
PROCESSES = 2
"""Of each artifact, where a choice hangs on the timing."""
Inputs = Mapping[int, Sequence[np.ndarray]]
Progress = Callable[[float], None]


def time_in_turns(
    artifacts: Sequence[Artifact],
    target: Target,
    inputs_by_batch: Inputs,
    *,
    seconds: float = 2.0,
    seed: int = 0,
    processes: int = 1,
    on_progress: Progress | None = None,
) -> list[dict[int, Latency]]:
    """Time artifacts against each other: block i of every artifact and batch size is of the same round.

    Args:
        artifacts: each gets a process of its own, or several.
        target: its threads.
        inputs_by_batch: flat arrays in the artifacts' order, by batch size.
        seconds: for each pair of artifact and batch size.
        seed: of the order inside the rounds.
        processes: of each artifact; the time is shared among them. The same files differ by some percent from one
            process to the next, by where their memory comes to lie.
        on_progress: called with the share that is done.

    Raises:
        SettingError: the target is a GPU.
        WorkerError: an artifact can't be opened or dies.
    """
    target.check_measurable()
    with open_workers([*artifacts] * processes, target.threads) as workers:
        found = time_workers(workers, inputs_by_batch, seconds=seconds / processes, seed=seed, on_progress=on_progress)
    return together(found, processes)


def together(found: Sequence[dict[int, Latency]], processes: int) -> list[dict[int, Latency]]:
    """Put the rounds of all processes of an artifact one after the other.

    Args:
        found: of all artifacts in one process each, then of all in another, and so on.
        processes: of each artifact.
    """
    count = len(found) // processes
    return [
        {
            size: Latency(size, tuple(block for part in found[number::count] for block in part[size].blocks))
            for size in found[number]
        }
        for number in range(count)
    ]


@contextlib.contextmanager
def open_workers(artifacts: Sequence[Artifact], threads: int) -> Iterator[list[Worker]]:
    """Open artifacts one after the other, those already open standing still; all end with the block."""
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        for artifact in artifacts:
            workers.append(stack.enter_context(Worker(artifact, threads)))
            workers[-1].pause()
        yield workers


def time_workers(
    workers: Sequence[Worker],
    inputs_by_batch: Inputs,
    *,
    seconds: float,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> list[dict[int, Latency]]:
    """Do what `time_in_turns` does with workers that are open already; they are left standing still."""
    pairs = [(index, size) for index in range(len(workers)) for size in inputs_by_batch]
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for index, size in pairs:
        with _turn(workers[index]) as worker:
            worker.load(str(size), inputs_by_batch[size])
            sizes[index, size] = _block(worker.warm(str(size), min(WARM_SECONDS, seconds)))
    blocks: dict[tuple[int, int], list[tuple[float, ...]]] = {pair: [] for pair in pairs}
    order = random.Random(seed)
    asked, start, rounds = seconds * len(pairs), time.monotonic(), 0
    while not _enough(rounds, time.monotonic() - start, asked):
        for index, size in order.sample(pairs, len(pairs)):
            with _turn(workers[index]) as worker:
                blocks[index, size].append(worker.time(str(size), *sizes[index, size]))
            if on_progress is not None:
                on_progress(min(1.0, (time.monotonic() - start) / asked))
        rounds += 1
    return [
        {size: Latency(size, tuple(blocks[index, size])) for size in inputs_by_batch} for index in range(len(workers))
    ]


def _block(seconds_per_call: float) -> tuple[int, int]:
    """Return how many calls of a block don't count, and how many do."""
    per_call = max(seconds_per_call, 1e-7)
    if per_call >= BLOCK_SECONDS:
        return int(per_call < LONG_CALL_SECONDS), 1
    discard = min(max(1, round(DISCARD_SECONDS / per_call)), MOST_CALLS)
    return discard, min(max(FEWEST_CALLS, math.ceil(BLOCK_SECONDS / per_call)), MOST_CALLS)


def _enough(rounds: int, spent: float, asked: float) -> bool:
    if spent < asked:
        return False
    return rounds >= ROUNDS or (rounds >= FEWEST_ROUNDS and spent > PATIENCE * asked)


@contextlib.contextmanager
def _turn(worker: Worker) -> Iterator[Worker]:
    """Let one worker run; it stands still again afterwards."""
    worker.resume()
    try:
        yield worker
    finally:
        worker.pause()
        if os.name != "posix":
            # It can't be stopped there: give its spinning threads the time to fall asleep.
            time.sleep(0.02)

"""Artifacts take turns: equal rounds, shuffled order, one awake at a time."""

from typing import Any

import numpy as np
import pytest

from leanly.measurement import latency as room
from leanly.measurement.latency import (
    FEWEST_CALLS,
    FEWEST_ROUNDS,
    MOST_CALLS,
    time_in_turns,
    time_workers,
    together,
)  # fmt: skip
from leanly.measurement.records import Latency
from leanly.target import Target

INPUTS = {1: [np.zeros((1, 3), np.float32)], 4: [np.zeros((4, 3), np.float32)]}


def test_blocks_of_all_artifacts_pair_up(make_artifact: Any) -> None:
    done: list[float] = []
    artifacts = [make_artifact("a"), make_artifact("b", 5.0)]
    found = time_in_turns(artifacts, Target(threads=1), INPUTS, seconds=0.05, on_progress=done.append)
    assert [list(entry) for entry in found] == [[1, 4], [1, 4]]
    rounds = {len(latency.blocks) for entry in found for latency in entry.values()}
    assert len(rounds) == 1 and rounds.pop() >= FEWEST_ROUNDS
    assert all(len(block) >= FEWEST_CALLS for block in found[0][1].blocks)
    assert done == sorted(done) and done[-1] == 1.0


class Scripted:
    """Stands for a worker: writes down what is asked of it."""

    def __init__(self, name: str, seconds: float, log: list[tuple[str, str]]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def load(self, key: str, arrays: Any) -> None: ...

    def warm(self, key: str, limit: float) -> float:
        self.log.append((self.name, "warm"))
        return self.seconds

    def time(self, key: str, discard: int, calls: int) -> tuple[float, ...]:
        self.log.append((self.name, f"{key}:{discard}+{calls}"))
        return (self.seconds,) * calls

    def pause(self) -> None:
        self.log.append((self.name, "pause"))

    def resume(self) -> None:
        self.log.append((self.name, "resume"))


def test_each_turn_wakes_one_worker_and_the_order_changes() -> None:
    log: list[tuple[str, str]] = []
    workers: Any = [Scripted(name, 0.001, log) for name in "ab"]
    time_workers(workers, INPUTS, seconds=0.0)
    awake: set[str] = set()
    for name, what in log:
        if what == "resume":
            assert not awake
            awake.add(name)
        elif what == "pause":
            awake.discard(name)
        else:
            assert awake == {name}
    turns = [(name, what.partition(":")[0]) for name, what in log if ":" in what]
    rounds = [tuple(turns[start : start + 4]) for start in range(0, len(turns), 4)]
    assert len(rounds) >= FEWEST_ROUNDS
    assert all(len(set(one)) == 4 for one in rounds)  # each pair once a round
    assert len(set(rounds)) >= 3


def test_the_same_seed_gives_the_same_order() -> None:
    logs: list[list[tuple[str, str]]] = [[], [], []]
    for log, seed in zip(logs, (5, 5, 6), strict=True):
        workers: Any = [Scripted(name, 0.001, log) for name in "abc"]
        time_workers(workers, INPUTS, seconds=0.0, seed=seed)
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.parametrize(
    ("per_call", "discard", "calls"),
    [
        (0.001, 5, 30),
        (0.02, 1, FEWEST_CALLS),
        (0.05, 1, 1),
        (0.2, 0, 1),
        (0.00001, 500, 3000),
        (0.0, MOST_CALLS, MOST_CALLS),
    ],
)
def test_blocks_take_tens_of_milliseconds(per_call: float, discard: int, calls: int) -> None:
    assert room._block(per_call) == (discard, calls)


@pytest.mark.parametrize(
    ("rounds", "spent", "enough"),
    [(100, 0.9, False), (10, 1.0, True), (9, 1.0, False), (9, 4.1, True), (4, 100.0, False)],
)
def test_when_there_are_rounds_enough(rounds: int, spent: float, enough: bool) -> None:
    assert room._enough(rounds, spent, asked=1.0) is enough


def test_no_worker_outlives_a_failure(make_artifact: Any) -> None:
    pids: list[int] = []

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    real = room.Worker

    class Watched(real):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            pids.append(self.pid)
            self.process = self._process

    opened: list[Watched] = []

    def open_watched(*arguments: Any) -> Watched:
        opened.append(Watched(*arguments))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "Worker", open_watched)
        with pytest.raises(KeyboardInterrupt):
            time_in_turns([make_artifact("a"), make_artifact("b")], Target(threads=1), INPUTS, on_progress=stop)
    assert len(pids) == 2
    assert all(worker.process.returncode is not None for worker in opened)


def test_rounds_of_all_processes_of_an_artifact_count() -> None:
    def latency(*seconds: float) -> dict[int, Latency]:
        return {1: Latency(1, tuple((value,) for value in seconds))}

    found = together([latency(1, 2), latency(5, 6), latency(3, 4), latency(7, 8)], processes=2)
    assert [by_size[1].block_medians for by_size in found] == [(1, 2, 3, 4), (5, 6, 7, 8)]


def test_more_processes_tell_artifacts_apart_better() -> None:
    """Each process has a speed of its own, 3 % apart: that is what a choice between two near ties hangs on."""
    random = np.random.default_rng(0)

    def timed() -> dict[int, Latency]:
        speed = 1 + 0.03 * random.standard_normal()
        return {1: Latency(1, tuple((float(value),) for value in speed + 0.02 * random.standard_normal(25)))}

    def error(processes: int, trials: int = 300) -> float:
        pairs = [together([timed() for _ in range(2 * processes)], processes) for _ in range(trials)]
        return float(np.std([np.log(a[1].median / b[1].median) for a, b in pairs]))

    assert error(2) < 0.85 * error(1)

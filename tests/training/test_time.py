"""A limit of time: the schedule is fitted into it, and too short a time is told. The clock is made up."""

from __future__ import annotations

from functools import partial

import pytest
from torch.nn import functional

import leanly
from leanly.errors import LeanlyWarning, SettingError
from leanly.training import Progress, Settings
from leanly.training.pace import Pace
from tests.training.models import image_task

FLOAT = Settings(batch_size=16, precision="float32", warmup=0.0)


class Clock:
    """Moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def timed_run(monkeypatch, clock: Clock, seconds: float, epochs: int, step: float = 1.0) -> list[Progress]:
    """Train where each step takes `step` made-up seconds and nothing else takes any; 6 steps an epoch."""
    monkeypatch.setattr("leanly.training.loop.Pace", partial(Pace, clock=clock))
    seen: list[Progress] = []

    def loss(outputs, targets):
        clock.now += step
        return functional.cross_entropy(outputs, targets)

    leanly.train(image_task(loss=loss), epochs=epochs, time=seconds, settings=FLOAT, progress=seen.append)
    return seen


def test_the_schedule_ends_with_the_time(monkeypatch):
    seen = timed_run(monkeypatch, Clock(), seconds=20, epochs=100)
    rates = [step.learning_rate for step in seen]
    assert seen[-1].step == 20 and seen[-1].fraction == 1.0
    assert rates[1] > 0.9e-3 and rates[-1] < 0.02e-3, "a whole cosine was gone through"
    assert [step.seconds_left for step in seen if step.step == 10] == [pytest.approx(10.0)]


def test_time_that_is_enough_changes_nothing(monkeypatch):
    limited = timed_run(monkeypatch, Clock(), seconds=1000, epochs=2)
    free = []
    leanly.train(image_task(), epochs=2, settings=FLOAT, progress=free.append)
    assert [step.learning_rate for step in limited] == [step.learning_rate for step in free]


def test_too_short_for_an_epoch_is_said_and_used(monkeypatch):
    with pytest.warns(LeanlyWarning, match=r"4 s is too short for one epoch: about 4 of its 6 steps fit, all .* 6 s"):
        seen = timed_run(monkeypatch, Clock(), seconds=4, epochs=3)
    assert seen[-1].step == 4 and seen[-1].epoch == 0


def test_too_short_for_a_single_step_is_said(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("leanly.training.loop.Pace", partial(Pace, clock=clock))
    seen: list[Progress] = []

    def look(progress: Progress) -> None:
        clock.now += 5  # as a slow evaluation before the first step
        seen.append(progress)

    with pytest.warns(LeanlyWarning, match=r"4 s is too short for one epoch: about 0 of its 6 steps fit\. What"):
        leanly.train(image_task(), time=4, settings=FLOAT, progress=look)
    assert seen[-1].step == 0


def test_a_time_that_can_not_be_read():
    with pytest.raises(SettingError, match="time 'soon' can't be read"):
        leanly.train(image_task(), time="soon")


def test_a_slow_machine_shortens_the_run_on_the_way():
    clock = Clock()
    pace = Pace(100, 50.0, clock=clock)
    pace.begin()
    for _ in range(10):
        clock.now += 0.1
        pace.step()
    assert pace.steps(10, 10) == 100
    for _ in range(10):
        clock.now += 2.0
        pace.step()
    mean = (9 * 0.1 + 10 * 2.0) / 19
    assert pace.step_seconds == pytest.approx(mean)
    assert pace.steps(20, 10) == 20 + int((50 - 21) / mean)


def test_evaluations_are_paid_from_the_same_time():
    clock = Clock()
    pace = Pace(1000, 100.0, clock=clock)
    with pace.evaluating():
        clock.now += 5.0
    pace.begin()
    for _ in range(5):
        clock.now += 1.0
        pace.step()
    # 90 s are left, 5 of them for the last evaluation; each step carries half a second of the one after its epoch
    assert pace.steps(5, 10) == 5 + int(85 / 1.5)
    clock.now += 84.0
    assert not pace.over()
    clock.now += 0.1
    assert pace.over()


def test_time_spent_before_an_interruption_counts():
    clock = Clock()
    assert Pace(10, 60.0, spent=59.0, clock=clock).elapsed == 59.0
    pace = Pace(10, 60.0, spent=61.0, clock=clock)
    assert pace.over()


def test_without_a_limit_the_clock_says_nothing():
    pace = Pace(10, None, clock=Clock())
    assert pace.steps(3, 5) == 10 and not pace.over() and pace.left(3, 5) is None

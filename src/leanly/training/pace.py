"""Pace: how many steps fit into the time, from how long the steps so far took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

SKIPPED = 1
"""The first step also pays for memory and kernels that the next ones find there."""
NEEDED = 2
"""Steps measured before anything is told from them."""


class Pace:
    """The clock of a run.

    Args:
        steps: steps wanted in all.
        limit: seconds for the whole run; None sets no limit.
        spent: seconds that are gone already.
        clock: gives seconds.
    """

    def __init__(
        self, steps: int, limit: float | None, *, spent: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self._wanted, self._clock = steps, clock
        self._begun = clock() - spent
        self._seen = self._count = 0
        self._step_seconds = 0.0
        self._pause_seconds = 0.0
        self._last: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds of the run, what was before an interruption included."""
        return self._clock() - self._begun

    def spend(self, seconds: float) -> None:
        """Note seconds of the same run before it was cut off."""
        self._begun -= seconds

    @property
    def step_seconds(self) -> float | None:
        """Seconds a step, the mean; None before enough were seen."""
        return self._step_seconds / self._count if self._count >= NEEDED else None

    def begin(self) -> None:
        """Start timing steps: what comes before them (an evaluation, a checkpoint) does not count as one."""
        self._last = self._clock()

    def step(self) -> None:
        """Note that a step, reading its rows included, is done."""
        now = self._clock()
        if self._last is not None:
            self._seen += 1
            if self._seen > SKIPPED:
                self._count += 1
                self._step_seconds += now - self._last
        self._last = now

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Note how long the block takes; it comes again after each epoch."""
        begun = self._clock()
        yield
        self._pause_seconds = self._clock() - begun

    def steps(self, done: int, epoch_steps: int) -> int:
        """Return how many steps there will be in all, `done` ones included, evaluations after each epoch counted."""
        if self.limit is None or self.step_seconds is None:
            return self._wanted
        left = self.limit - self.elapsed - self._pause_seconds
        each = self.step_seconds + self._pause_seconds / epoch_steps
        return min(self._wanted, done + max(0, int(left / max(each, 1e-9))))

    def over(self) -> bool:
        """Say whether there is no time for a further step and the evaluation after it."""
        if self.limit is None:
            return False
        return self.elapsed + self._pause_seconds + (self.step_seconds or 0.0) > self.limit

    def left(self, done: int, epoch_steps: int) -> float | None:
        """Return the seconds that are left, as far as they can be told."""
        if self.step_seconds is None:
            return None
        more = self.steps(done, epoch_steps) - done
        return more * (self.step_seconds + self._pause_seconds / epoch_steps)

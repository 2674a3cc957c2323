"""The clock of a run: what is left, and how long the next step will take, judged by what was seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

SMOOTHING = 0.5
"""Weight of the newest step in the moving average."""


class Forecast:
    """Time left of a budget, and moving averages of what each kind of step took.

    Args:
        total: seconds that may be spent, from now.
        clock: monotonic seconds.
    """

    def __init__(self, total: float, clock: Callable[[], float]) -> None:
        self.total = total
        self.clock = clock
        self.started = clock()
        self._seen: dict[str, float] = {}

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    @property
    def left(self) -> float:
        """Seconds left; negative when the time is over."""
        return self.total - self.spent

    def see(self, kind: str, seconds: float) -> None:
        """Note what a step took."""
        before = self._seen.get(kind)
        self._seen[kind] = seconds if before is None else before + SMOOTHING * (seconds - before)

    @contextlib.contextmanager
    def step(self, kind: str) -> Iterator[None]:
        """Time a block as a step; one that raises is not noted, since it was cut short."""
        began = self.clock()
        yield
        self.see(kind, self.clock() - began)

    def seen(self, kind: str) -> float | None:
        """Return the moving average of a kind of step, None when there was none."""
        return self._seen.get(kind)

    def expect(self, kind: str, *, like: tuple[str, ...] = (), prior: float = 0.0) -> float:
        """Return the seconds a step will take.

        Args:
            kind: the step; if it was seen, its moving average is the answer.
            like: kinds that resemble it, the nearest first; the first that was seen is the answer.
            prior: seconds that an unseen kind takes at least.
        """
        if kind in self._seen:
            return self._seen[kind]
        for other in like:
            if other in self._seen:
                return max(self._seen[other], prior)
        return max([prior, *self._seen.values()])

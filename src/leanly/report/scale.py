"""Axes: where values lie on paper, and which ticks people can read."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A scale from values to places on paper.

    Args:
        low, high: the ends, in values.
        start, end: the ends, on paper; `end` may be below `start`.
        log: whether equal ratios take equal room.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies, held inside the ends."""
        value = min(max(value, self.low), self.high)
        return round(self.start + (self.end - self.start) * self._share(value), 1)

    def _share(self, value: float) -> float:
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Return at most `most` round values inside the ends."""
        return log_ticks(self.low, self.high, most) if self.log else even_ticks(self.low, self.high, most)


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return 1, 2 and 5 times powers of ten inside the ends, the sparsest set that keeps at least two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    sets = [(1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)]
    inside: list[float] = []
    for steps in sets:
        found = [step * 10.0**power for power in powers for step in steps]
        inside = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(inside) <= most:
            break
    return inside[:: max(1, math.ceil(len(inside) / most))]


def even_ticks(low: float, high: float, most: int) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten inside the ends: few, and at least one."""
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    wide = next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    found: list[float] = []
    for factor in (10, 5, 2, 1, 0.5):
        step = factor * power
        if factor <= wide and not found:
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            found = [round(index * step, 12) for index in range(first, last + 1)]
    return found

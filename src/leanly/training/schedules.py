"""How the learning rate goes over the steps: a warm-up, then a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable


def cosine(fraction: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + math.cos(math.pi * fraction))


def linear(fraction: float) -> float:
    """A straight line from 1 to 0."""
    return 1 - fraction


def constant(fraction: float) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    function.__name__: function for function in (cosine, linear, constant)
}


def rate_factor(schedule: str, step: int, steps: int, warmup: float) -> float:
    """Return the share of the highest learning rate that a step is given.

    Args:
        schedule: its name.
        step: steps done before.
        steps: steps in all, as far as is known now.
        warmup: share of the steps in which the rate rises linearly, never from 0.
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    return SCHEDULES[schedule](min((step - rising) / max(steps - rising, 1), 1.0))

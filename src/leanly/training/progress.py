"""Progress: what a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        fraction: share of the work that is done, 0 to 1.
        epoch: epochs that are complete.
        step: steps that are done.
        loss: mean over the steps of this epoch (of the last one right after it); None before the first step.
        metric: the last one on validation, higher is better; None without validation data.
        best: the best one so far; the weights of that moment are what comes back.
        learning_rate: of the last step.
        seconds_left: as far as it can be told; None at the start.
    """

    fraction: float
    epoch: int
    step: int
    loss: float | None
    metric: float | None
    best: float | None
    learning_rate: float
    seconds_left: float | None


Listener = Callable[[Progress], None]

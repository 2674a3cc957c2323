"""Descent: steps along the loss of rows that are drawn at random, a few of them at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Descent:
    """Draws rows for each step and adds up the slopes of as many of them as run at once.

    Args:
        loss: the mean loss of rows with these numbers.
        count: rows that may be drawn.
        batch_size: rows in a step, at most.
        at_once: rows that run at once, at most.
    """

    def __init__(self, loss: Callable[[Tensor], Tensor], count: int, batch_size: int, at_once: int) -> None:
        self._loss, self._count, self._size, self._at_once = loss, count, min(batch_size, count), at_once

    def step(self, optimizer: torch.optim.Optimizer, besides: Tensor | None = None) -> None:
        """Make one step along the loss and what is added to it."""
        optimizer.zero_grad()
        rows = torch.randint(self._count, (self._size,))
        for some in rows.split(self._at_once):
            (self._loss(some) * (len(some) / self._size)).backward()
        if besides is not None:
            besides.backward()
        optimizer.step()

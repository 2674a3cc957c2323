"""Descent: steps along the loss of rows that are drawn at random, a few of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Descent:
    """Draws rows for each step and adds up the slopes of as many of them as run at once.

    Args:
        loss: the mean loss of rows with these numbers.
        alike: numbers of the rows that may be drawn; those of a step are all of one entry.
        batch_size: rows in a step, at most.
        at_once: rows that run at once, at most.
    """

    def __init__(
        self, loss: Callable[[Tensor], Tensor], alike: Sequence[Tensor], batch_size: int, at_once: int
    ) -> None:
        self._loss, self._alike, self._size, self._at_once = loss, alike, batch_size, at_once
        self._shares = torch.tensor([len(rows) for rows in alike], dtype=torch.float64)

    def step(self, optimizer: torch.optim.Optimizer, besides: Tensor | None = None) -> None:
        """Make one step along the loss and what is added to it."""
        optimizer.zero_grad()
        which = int(torch.multinomial(self._shares, 1)) if len(self._alike) > 1 else 0
        alike = self._alike[which]
        rows = alike[torch.randint(len(alike), (min(self._size, len(alike)),))]
        for some in rows.split(self._at_once):
            (self._loss(some) * (len(some) / len(rows))).backward()
        if besides is not None:
            besides.backward()
        optimizer.step()

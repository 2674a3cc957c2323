"""The training rows of an epoch in a shuffled order that follows from the seed, from any batch on."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from leanly.data import Split
from leanly.reading import shown_rows
from leanly.seeding import reseed, seed_of
from leanly.training.padding import Padding

WINDOW = 32
"""Batches of a stream that are held and mixed; of text, within which rows are sorted by their length."""
READ = 1024
"""Rows that are read at once to see how long they are."""


class TrainBatch(NamedTuple):
    """Rows of one step: flat inputs on the CPU, their targets, and their numbers (None in a stream)."""

    epoch: int
    number: int
    inputs: list[Tensor]
    targets: Tensor
    rows: Tensor | None

    @property
    def place(self) -> str:
        """Where the batch stands, for messages; epochs and batches counted from 1."""
        told = f"epoch {self.epoch + 1}, batch {self.number + 1}"
        return told if self.rows is None else f"{told} ({shown_rows(self.rows.tolist())} of split 'train')"


class Rows:
    """Batches of a split, shuffled anew each epoch; what is left at an epoch's end is left out.

    Args:
        split: training rows; a stream is mixed within a window of batches.
        size: rows in a batch.
        seed: of the order.
        padding: what is left out of text.
        limit: rows of an epoch at most, others in each; None takes all.
    """

    def __init__(
        self, split: Split, size: int, seed: int, padding: Padding | None = None, limit: int | None = None
    ) -> None:
        self._split, self._seed, self.padding = split, seed, padding
        count = min(len(split), limit or len(split))
        self._size = min(size, count)
        self.steps = count // self._size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch from number `start` on; the same ones whenever it is asked for."""
        read = self._picked if self._split.counted else self._streamed
        for batch in read(epoch, start):
            yield batch._replace(inputs=self.padding.without(batch.inputs)) if self.padding else batch

    def typical(self, count: int) -> Iterator[TrainBatch]:
        """Yield a few batches of the first epoch that take about as long as the mean of all."""
        if self.padding is None or not self._split.counted:
            yield from itertools.islice(self.epoch(0), count)
            return
        longest = self._lengths[self._order(0)].amax(1).double()
        nearest = (longest - longest.mean()).abs().argsort(stable=True)[:count]
        for number in nearest.tolist():
            yield from itertools.islice(self.epoch(0, number), 1)

    def _picked(self, epoch: int, start: int) -> Iterator[TrainBatch]:
        for number, rows in enumerate(self._order(epoch)[start:], start):
            reseed(self._seed, "rows", epoch, number)
            inputs, targets = self._split.take(rows)
            yield TrainBatch(epoch, number, inputs, targets, rows)

    def _order(self, epoch: int) -> Tensor:
        """Return the rows of each batch `(steps, size)`; of text, rows of about one length stand together."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, "order", epoch))
        order = torch.randperm(len(self._split), generator=generator)[: self.steps * self._size]
        if self.padding is None:
            return order.reshape(self.steps, self._size)
        batches = []
        for window in order.split(WINDOW * self._size):
            alike = window[self._lengths[window].argsort(stable=True)].reshape(-1, self._size)
            batches.append(alike[torch.randperm(len(alike), generator=generator)])
        return torch.cat(batches)

    @functools.cached_property
    def _lengths(self) -> Tensor:
        """Tokens of each row, its padding left out; they are read once."""
        assert self.padding is not None
        return torch.cat([self.padding.lengths(inputs) for inputs, _ in self._split.flat_batches(READ)])

    def _streamed(self, epoch: int, start: int) -> Iterator[TrainBatch]:
        generator = torch.Generator().manual_seed(seed_of(self._seed, "order", epoch))
        number = 0
        for batches in self._windows(epoch):
            for place in torch.randperm(len(batches), generator=generator).tolist():
                inputs, targets = batches[place]
                if start <= number < self.steps:
                    yield TrainBatch(epoch, number, inputs, targets, None)
                number += 1

    def _windows(self, epoch: int) -> Iterator[list[tuple[list[Tensor], Tensor]]]:
        """Read many batches at a time: what a step draws in between must not change what the next rows are."""
        batches = self._without_rest()
        for window in itertools.count():
            reseed(self._seed, "rows", epoch, window)
            held = list(itertools.islice(batches, WINDOW))
            if not held:
                return
            yield held

    def _without_rest(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Leave the last batch out where it is short; in between only rows that go with no others make short ones."""
        batches = self._split.flat_batches(self._size)
        before = next(batches)
        for batch in batches:
            yield before
            before = batch
        if len(before[1]) == self._size:
            yield before

"""The training rows of an epoch in a shuffled order that follows from the seed, from any batch on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from leanly.data import Split
from leanly.reading import shown_rows
from leanly.training.padding import Padding
from leanly.training.seeding import reseed, seed_of

WINDOW = 32
"""Batches of a stream that are held and mixed."""


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
    """

    def __init__(self, split: Split, size: int, seed: int, padding: Padding | None = None) -> None:
        self._split, self._seed, self.padding = split, seed, padding
        self._size = min(size, len(split))
        self.steps = len(split) // self._size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch from number `start` on; the same ones whenever it is asked for."""
        read = self._picked if self._split.counted else self._streamed
        for batch in read(epoch, start):
            yield batch._replace(inputs=self.padding.without(batch.inputs)) if self.padding else batch

    def _picked(self, epoch: int, start: int) -> Iterator[TrainBatch]:
        generator = torch.Generator().manual_seed(seed_of(self._seed, "order", epoch))
        order = torch.randperm(len(self._split), generator=generator)
        for number in range(start, self.steps):
            rows = order[number * self._size : (number + 1) * self._size]
            reseed(self._seed, "rows", epoch, number)
            inputs, targets = self._split.take(rows)
            yield TrainBatch(epoch, number, inputs, targets, rows)

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
        batches = self._split.flat_batches(self._size)
        for window in itertools.count():
            reseed(self._seed, "rows", epoch, window)
            held = list(itertools.islice(batches, WINDOW))
            if not held:
                return
            yield held

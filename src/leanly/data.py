"""Split: the rows of train, validation or test in one fixed order, read a batch at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from leanly.arguments import Arguments
from leanly.errors import DataError
from leanly.reading import READ, ArraySource, RowSource, StreamSource, open_source
from leanly.seeding import fixed_random


class Batch(NamedTuple):
    """Some rows: the model's arguments `(args, kwargs)` and their targets, on the CPU."""

    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    targets: torch.Tensor


class _Scan(NamedTuple):
    count: int
    targets: np.ndarray
    rows: np.ndarray
    digest: str


Visit = Callable[[int, list[tuple[str, torch.Tensor]], torch.Tensor], None]
"""Called with the first row's number, the inputs that carry rows by name, and the targets."""


class Split:
    """Rows in one fixed order; nothing of the user's data is held twice.

    Args:
        name: "train", "validation" or "test".
        data: `(inputs, targets)` tensors or arrays, with None for targets where rows have none, a Dataset of
            `(x, y)`, or a DataLoader.
        arguments: how inputs become the model's arguments.

    Raises:
        DataError: another kind of data, no rows, or an order that can't be fixed.
    """

    def __init__(self, name: str, data: Any, arguments: Arguments) -> None:
        self.name = name
        self.arguments = arguments
        self._source = open_source(name, data)
        self._scanned: _Scan | None = None
        self._began = False
        if self._source.count == 0:
            raise self._empty()

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {'rows not counted yet' if self._rows is None else f'{self._rows} rows'})"

    def __len__(self) -> int:
        """Number of rows; a stream is read once to know it."""
        rows = self._rows
        return self.scan().count if rows is None else rows

    @property
    def counted(self) -> bool:
        """Whether the number of rows is known without reading them, as it is for all but streams."""
        return self._source.count is not None

    @property
    def labelled(self) -> bool:
        """Whether rows have targets; else those of a batch are empty."""
        return self._source.labelled

    def check_labelled(self, what: str, instead: str) -> None:
        """Raise a DataError where rows have no targets; says what needs them, and what does not."""
        if not self.labelled:
            raise DataError(
                f"{what} needs targets, and the rows have none",
                where=f"split {self.name!r}",
                remedy=f"give {self.name}=(inputs, targets), {instead}",
            )

    @property
    def _rows(self) -> int | None:
        return self._scanned.count if self._scanned else self._source.count

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Yield batches of at most `size` rows, always in the same order.

        Args:
            size: rows in a batch.
            limit: stop after so many rows; None reads all.
        """
        for tensors, targets in self.flat_batches(size, limit):
            yield Batch(self.arguments.bind(tensors), targets)

    def flat_batches(self, size: int, limit: int | None = None) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """Yield the same batches with the arguments as flat tensors, in the order of the example."""
        for rows, targets in self._read(size, limit):
            yield self.arguments.complete(rows), targets

    def take(self, rows: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the rows with these numbers, in this order, as flat tensors and targets.

        Args:
            rows: row numbers, int64 `(rows,)`.

        Raises:
            DataError: the split is a stream, or a row can't be read.
        """
        inputs, targets = self._source.take(rows)
        return self.arguments.complete(self.arguments.rows(inputs, f"split {self.name!r}")), targets

    def _read(self, size: int, limit: int | None = None) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        if size < 1:
            raise DataError(
                f"a batch of {size} rows was asked for", where=f"split {self.name!r}", remedy="ask for 1 or more"
            )
        found = False
        for inputs, targets in self._source.read(size, limit):
            found = self._began = True
            yield self.arguments.rows(inputs, f"split {self.name!r}"), targets
        if not found and limit != 0:
            raise self._exhausted() if self._began else self._empty()

    @property
    def targets(self) -> np.ndarray:
        """All targets, in order.

        Raises:
            DataError: the rows have none.
        """
        self.check_labelled("the metric", "or measure on a split that has them")
        if self._scanned is None and isinstance(self._source, ArraySource):
            return self._source.targets()
        return self.scan().targets

    @property
    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of all inputs and targets, in order."""
        return self.scan().digest

    def row_digests(self) -> np.ndarray:
        """Return 64 bits for each row, equal where the inputs are equal."""
        return self.scan().rows

    def scan(self, visit: Visit | None = None, seed: int = 0) -> _Scan:
        """Read all rows once, show each batch to `visit`, and keep what is asked for later.

        Args:
            visit: called with each batch; without it a second call reads nothing.
            seed: of the random generators while reading.

        Raises:
            DataError: there are no rows.
        """
        if self._scanned is not None and visit is None:
            return self._scanned
        total = hashlib.sha256()
        rows: list[bytes] = []
        targets: list[np.ndarray] = []
        count = 0
        # a dataset that augments at random must not get another digest each time
        with fixed_random(seed):
            for leaves, batch in self._read(READ):
                named = [(name, leaf) for (name, _), leaf in zip(self.arguments.batched, leaves, strict=True)]
                if visit is not None:
                    visit(count, named, batch)
                heads = [f"{name} {leaf.dtype} {tuple(leaf.shape[1:])};".encode() for name, leaf in named]
                raw = [_bytes(leaf) for _, leaf in named]
                target_head, target_raw = f"{batch.dtype} {tuple(batch.shape[1:])};".encode(), _bytes(batch)
                for index in range(len(batch)):
                    row = hashlib.blake2b(digest_size=32)
                    for head, content in zip(heads, raw, strict=True):
                        row.update(head)
                        row.update(content[index])
                    rows.append(row.digest()[:8])
                    total.update(row.digest() + target_head)
                    total.update(target_raw[index])
                targets.append(batch.numpy() if batch.dtype != torch.bfloat16 else batch.float().numpy())
                count += len(batch)
        try:
            together = np.concatenate(targets)
        except ValueError as error:
            raise DataError(
                f"targets have different shapes in different batches ({error})",
                where=f"split {self.name!r}",
                remedy="give targets of one shape",
            ) from error
        self._scanned = _Scan(count, together, np.frombuffer(b"".join(rows), dtype="<u8"), total.hexdigest())
        return self._scanned

    def same_again(self) -> bool:
        """Read again what could differ (all of a stream, the first rows of a dataset); say whether it is the same."""
        if isinstance(self._source, ArraySource):
            return True
        if isinstance(self._source, RowSource):
            with fixed_random():
                once = self._first()
            # another state of the random generators: what depends on them shows
            with fixed_random(seed=1):
                return once == self._first()
        assert isinstance(self._source, StreamSource)
        before = self.scan()
        self._scanned = None
        try:
            return self.scan(seed=1).digest == before.digest
        finally:
            self._scanned = before

    def _first(self) -> list[bytes]:
        leaves, targets = next(self._read(READ, READ))
        return [_bytes(tensor).tobytes() for tensor in (*leaves, targets)]

    def _exhausted(self) -> DataError:
        return DataError(
            "the stream gave nothing when it was read again",
            where=f"split {self.name!r}",
            remedy="give a dataset whose __iter__ begins anew each time: a generator can be read only once",
        )

    def _empty(self) -> DataError:
        return DataError(
            "the split is empty", where=f"split {self.name!r}", remedy="give at least one row, or leave it out"
        )


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """The bytes of each row, as a (rows, bytes) array over the tensor's own memory."""
    rows = len(tensor)
    if tensor.numel() == 0:
        return np.empty((rows, 0), dtype=np.uint8)
    return tensor.contiguous().reshape(rows, -1).view(torch.uint8).numpy()

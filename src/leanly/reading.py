"""Where rows come from: arrays, a map-style dataset, or a stream; each read in one order, a batch at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from leanly.errors import DataError, LeanlyError, LeanlyWarning
from leanly.structure import build, flatten, is_tensor

READ = 64
"""Rows read at a time where nobody asks for another size: digests must not depend on who reads."""


class Source(Protocol):
    """Rows in one fixed order."""

    count: int | None
    """Number of rows; None where only reading tells."""
    labelled: bool
    """Whether rows have targets; else those that are read are empty, of shape `(rows, 0)`."""

    def read(self, size: int, limit: int | None = None) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield `(inputs, targets)` of at most `size` rows each, `limit` rows in all."""
        ...

    def take(self, rows: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Return the rows with these numbers, in this order."""
        ...


def open_source(name: str, data: Any) -> Source:
    """Return the source of a split.

    Args:
        name: of the split, for messages.
        data: `(inputs, targets)` or `(inputs, None)`, a map-style Dataset or list of `(x, y)`, an IterableDataset
            or a DataLoader.

    Raises:
        DataError: another kind of data, or an order that can't be fixed.
    """
    if isinstance(data, tuple):
        return ArraySource(name, data)
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return ArraySource(name, data.tensors)
    if isinstance(data, DataLoader):
        return _open_loader(name, data)
    if isinstance(data, IterableDataset):
        return StreamSource(name, lambda: iter(DataLoader(data, batch_size=READ)))
    if (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not is_tensor(data)
        and not isinstance(data, dict | str)
    ):
        return RowSource(name, data, default_collate)
    raise DataError(
        f"data is a {type(data).__name__}",
        where=f"split {name!r}",
        remedy="give (inputs, targets) tensors or arrays, a torch Dataset of (x, y), or a DataLoader",
    )


class ArraySource:
    """`(inputs, targets)` held by the user; only the rows of a batch are copied."""

    def __init__(self, name: str, data: tuple[Any, ...]) -> None:
        where = f"split {name!r}"
        if len(data) != 2:
            raise DataError(
                f"data is a tuple of {len(data)}",
                where=where,
                remedy="give (inputs, targets); several inputs as a tuple",
            )
        inputs, targets = data
        self.labelled = targets is not None
        try:
            self._structure, self._inputs = flatten(inputs)
            if targets is None:
                targets = torch.empty(*self._inputs[0].shape[:1], 0) if self._inputs else ()
            self._targets: Any = targets if is_tensor(targets) else np.asarray(targets)
        except (TypeError, ValueError) as error:
            raise DataError(
                str(error), where=where, remedy="give tensors or numpy arrays (of a DataFrame its .to_numpy())"
            ) from error
        if not self._inputs:
            raise DataError("the inputs hold no tensor", where=where, remedy="give (inputs, targets) tensors or arrays")
        for leaf in (*self._inputs, self._targets):
            if len(leaf.shape) == 0:
                raise DataError(
                    "a tensor has no dimension for rows", where=where, remedy="give tensors with rows first"
                )
            try:
                _rows(leaf, 0, 0)
            except (TypeError, ValueError) as error:
                raise DataError(
                    f"an array of dtype {leaf.dtype} can't become a tensor ({error})",
                    where=where,
                    remedy="give numbers: float32 inputs, int64 labels",
                ) from error
        rows = int(self._targets.shape[0])
        self.count: int | None = rows
        for leaf in self._inputs:
            if leaf.shape[0] != rows:
                raise DataError(
                    f"there are {leaf.shape[0]} inputs and {rows} targets",
                    where=where,
                    remedy="give one target for each row of the inputs",
                )

    def read(self, size: int, limit: int | None = None) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield batches; each is a copy, so that a model that works in place can't change the user's data."""
        count = self._targets.shape[0]
        end = count if limit is None else min(limit, count)
        for start in range(0, end, size):
            stop = min(start + size, end)
            leaves = [_rows(leaf, start, stop) for leaf in self._inputs]
            yield build(self._structure, leaves), _rows(self._targets, start, stop)

    def take(self, rows: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Return copies of the rows with these numbers, in this order."""
        return build(self._structure, [_taken(leaf, rows) for leaf in self._inputs]), _taken(self._targets, rows)

    def targets(self) -> np.ndarray:
        """All targets, without reading the inputs."""
        return _rows(self._targets, 0, self._targets.shape[0]).numpy()


class RowSource:
    """A map-style dataset of `(x, y)`, put together by a collate function."""

    labelled = True

    def __init__(self, name: str, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self._name, self._dataset, self._collate = name, dataset, collate
        self.count: int | None = len(dataset)

    def read(self, size: int, limit: int | None = None) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield batches of items 0, 1, 2, ..."""
        count = len(self._dataset)
        end = count if limit is None else min(limit, count)
        for start in range(0, end, size):
            rows = list(range(start, min(start + size, end)))
            yield self._together(rows, f"split {self._name!r}, rows {rows[0]} to {rows[-1]}")

    def take(self, rows: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Return the rows with these numbers, in this order."""
        numbers = rows.tolist()
        return self._together(numbers, f"split {self._name!r}, {shown_rows(numbers)}")

    def _together(self, rows: list[int], where: str) -> tuple[Any, torch.Tensor]:
        try:
            many = getattr(self._dataset, "__getitems__", None)
            items = many(rows) if many else [self._dataset[row] for row in rows]
            _check_pair(items[0], where)
            batch = self._collate(items)
        except LeanlyError:
            raise
        except Exception as error:
            raise DataError(
                f"reading failed with {type(error).__name__}: {error}",
                where=where,
                remedy="make dataset[row] return (x, y) of tensors, arrays or numbers, of one shape in a batch "
                "or put together by the collate_fn of a DataLoader",
            ) from error
        return _pair(batch, where)


class StreamSource:
    """Ready batches of `(inputs, targets)`, read from the start each time and cut to the asked size."""

    labelled = True

    def __init__(self, name: str, start: Callable[[], Iterator[Any]]) -> None:
        self._name, self._start = name, start
        self.count: int | None = None

    def read(self, size: int, limit: int | None = None) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield batches; rows of two batches are joined where their shapes agree."""
        left = limit
        held: tuple[Any, list[torch.Tensor]] | None = None
        for number, batch in enumerate(self._start()):
            where = f"split {self._name!r}, batch {number}"
            structure, leaves = flatten(_pair(batch, where))
            if held is not None and _joinable(held[1], leaves) and held[0] == structure:
                leaves = [torch.cat(pair) for pair in zip(held[1], leaves, strict=True)]
            elif held is not None:
                yield build(*held)
                left = None if left is None else left - len(held[1][0])
            if left is not None:
                leaves = [leaf[:left] for leaf in leaves]
            rows = len(leaves[0])
            whole = rows - rows % size
            for first in range(0, whole, size):
                yield build(structure, [leaf[first : first + size] for leaf in leaves])
            held = (structure, [leaf[whole:] for leaf in leaves]) if whole < rows else None
            if left is not None:
                left -= whole
                if rows - whole >= left:
                    break
        if held is not None:
            yield build(*held)

    def take(self, rows: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """Refuse: a stream is only read from its start.

        Raises:
            DataError: always.
        """
        raise DataError(
            "rows of a stream can't be picked",
            where=f"split {self._name!r}",
            remedy="give a Dataset with numbered rows, or arrays",
        )


def _open_loader(name: str, loader: DataLoader[Any]) -> Source:
    where = f"split {name!r}"
    collate = loader.collate_fn
    if isinstance(loader.dataset, IterableDataset):
        return StreamSource(name, lambda: iter(loader))
    sampler, batches = loader.sampler, loader.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        raise DataError(
            f"the loader's batch_sampler is a {type(batches).__name__}, whose order can't be fixed",
            where=where,
            remedy="give the dataset itself, or DataLoader(dataset, batch_size=..., shuffle=False)",
        )
    if batches is not None:
        sampler = batches.sampler
    if type(sampler) is RandomSampler:
        warnings.warn(
            f"The loader of split {name!r} shuffles; leanly reads its dataset in order (0, 1, 2, ...) so that "
            "predictions pair up. What to do: nothing, or give a loader with shuffle=False.",
            LeanlyWarning,
            stacklevel=2,
        )
    elif type(sampler) is not SequentialSampler:
        raise DataError(
            f"the loader's sampler is a {type(sampler).__name__}, whose order can't be fixed",
            where=where,
            remedy="give the dataset itself (a part of it as torch.utils.data.Subset(dataset, indices)), or a "
            "DataLoader with shuffle=False and no sampler",
        )
    if batches is None:  # batch_size=None: every item is a batch already
        dataset: Any = loader.dataset
        return StreamSource(name, lambda: (collate(dataset[index]) for index in range(len(dataset))))
    if collate is default_collate and isinstance(loader.dataset, TensorDataset) and len(loader.dataset.tensors) == 2:
        return ArraySource(name, loader.dataset.tensors)
    return RowSource(name, loader.dataset, collate)


def _rows(leaf: Any, start: int, stop: int) -> torch.Tensor:
    if isinstance(leaf, torch.Tensor):
        rows = leaf.detach()[start:stop]
        return rows.clone() if rows.device.type == "cpu" else rows.cpu()
    return torch.from_numpy(np.array(leaf[start:stop]))


def _taken(leaf: Any, rows: torch.Tensor) -> torch.Tensor:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach()[rows.to(leaf.device)].cpu()
    return torch.from_numpy(np.array(leaf[rows.numpy()]))


def shown_rows(rows: list[int]) -> str:
    """Name a few rows: "rows 3, 17, 4 and 29 more"."""
    more = len(rows) - 3
    return f"rows {', '.join(map(str, rows[:3]))}{f' and {more} more' if more > 0 else ''}"


def _check_pair(item: Any, where: str) -> None:
    if not isinstance(item, tuple | list) or len(item) != 2:
        kind = f"a {type(item).__name__}"
        kind += f" of {len(item)}" if isinstance(item, tuple | list) else ""
        raise DataError(
            f"an item is {kind}, not (inputs, target)",
            where=where,
            remedy="return (x, y); several inputs as ((x1, x2), y) or ({name: x}, y)",
        )


def _pair(batch: Any, where: str) -> tuple[Any, torch.Tensor]:
    _check_pair(batch, where)
    inputs, targets = batch
    inputs = tuple(inputs) if isinstance(inputs, list) else inputs  # default_collate makes lists of tuples
    try:
        structure, leaves = flatten(inputs)
        leaves = [torch.as_tensor(leaf).detach().cpu() for leaf in leaves]
        targets = torch.as_tensor(targets).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"a batch is not of tensors ({error})", where=where, remedy="return tensors or arrays"
        ) from error
    for leaf in leaves:
        if leaf.ndim == 0 or targets.ndim == 0 or len(leaf) != len(targets):
            shapes = f"inputs have shape {tuple(leaf.shape)} and targets {tuple(targets.shape)}"
            raise DataError(f"in a batch, {shapes}", where=where, remedy="give one target for each row, rows first")
    return build(structure, leaves), targets


def _joinable(held: list[torch.Tensor], leaves: list[torch.Tensor]) -> bool:
    pairs = list(zip(held, leaves, strict=False))
    return len(held) == len(leaves) and all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in pairs)

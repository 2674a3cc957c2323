"""Movement: how an operator rearranges its inputs, found by running it on ids instead of data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from leanly.graph.coupling.variables import Array

FIRST = 1 << 40
"""Where ids start: what an operator fills in by itself (zeros, ones) is smaller."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Link:
    """Dimensions of one input that decide over dimensions of one output, independent of all others.

    Args:
        source, inputs: which tensor argument, and its dimensions.
        output, outputs: which result, and its dimensions.
        index: for each of `inputs` the index read at every point of the grid of `outputs`, -1 where the value is not
            from this source; None where one dimension passes as it is.
    """

    source: int
    inputs: tuple[int, ...]
    output: int
    outputs: tuple[int, ...]
    index: tuple[Array, ...] | None


@dataclass(frozen=True)
class Movement:
    """All links of an operator, and what can't leave.

    Args:
        read: (source, dimension, index) read alone, as by `select`.
        written: (output, dimension, indices) that hold one source each, as after `stack`.
    """

    links: tuple[Link, ...]
    read: tuple[tuple[int, int, int], ...]
    written: tuple[tuple[int, int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Slot:
    """Stands in the arguments where a tensor goes."""

    source: int


def run_on_ids(target: Callable[..., Any], args: Any, kwargs: Any, ids: list[Tensor]) -> list[Tensor]:
    """Run an operator on tensors of ids put into their slots; return its results as a list."""

    def fill(item: Any) -> Any:
        return ids[item.source] if isinstance(item, Slot) else item

    args, kwargs = pytree.tree_map(fill, (args, kwargs), is_leaf=lambda item: isinstance(item, Slot))
    with torch.no_grad():
        result = target(*args, **kwargs)
    return [result] if isinstance(result, Tensor) else list(result)


def ids_of(shapes: list[Shape]) -> list[Tensor]:
    """Return tensors of consecutive ids, all different."""
    starts = _starts(shapes)
    return [
        torch.arange(start, start + math.prod(shape)).reshape(shape)
        for start, shape in zip(starts, shapes, strict=True)
    ]


def find_movement(target: Callable[..., Any], args: Any, kwargs: Any, shapes: list[Shape]) -> Movement | None:
    """Return how an operator moves its inputs; None where it does anything else than rearrange.

    It is a rearrangement if its output on permuted ids is the permuted output.
    """
    ids = ids_of(shapes)
    try:
        outputs = run_on_ids(target, args, kwargs, ids)
        for permute in (_reversed, _shuffled):
            table = [permute(tensor) for tensor in ids]
            again = run_on_ids(target, args, kwargs, table)
            if not _commute(outputs, again, table, shapes):
                return None
    except Exception:  # an operator refuses integers, or these integers, in any way it likes
        return None
    links: list[Link] = []
    read: list[tuple[int, int, int]] = []
    written: list[tuple[int, int, tuple[int, ...]]] = []
    for number, output in enumerate(outputs):
        for source, (start, shape) in enumerate(zip(_starts(shapes), shapes, strict=True)):
            positions = output.numpy() - start
            inside = (positions >= 0) & (positions < math.prod(shape))
            if not inside.any():
                continue
            found = _links(positions, inside, shape, source, number)
            if found is None:
                return None
            links += found[0]
            read += found[1]
            written += _written(inside, {axis for link in found[0] for axis in link.outputs}, number)
    return Movement(tuple(links), tuple(dict.fromkeys(read)), tuple(dict.fromkeys(written)))


def _starts(shapes: list[Shape]) -> list[int]:
    starts = [FIRST]
    for shape in shapes:
        starts.append(starts[-1] + math.prod(shape))
    return starts[:-1]


def _reversed(ids: Tensor) -> Tensor:
    return ids.reshape(-1).flip(0).reshape(ids.shape)


def _shuffled(ids: Tensor) -> Tensor:
    order = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(1))
    return ids.reshape(-1)[order].reshape(ids.shape)


def _commute(outputs: list[Tensor], again: list[Tensor], table: list[Tensor], shapes: list[Shape]) -> bool:
    lookup = torch.cat([tensor.reshape(-1) for tensor in table]) if table else torch.empty(0, dtype=torch.int64)
    last = FIRST + sum(map(math.prod, shapes))
    for one, other in zip(outputs, again, strict=True):
        if one.dtype != torch.int64 or one.shape != other.shape:
            return False
        inside = (one >= FIRST) & (one < last)
        expected = torch.where(inside, lookup[torch.where(inside, one - FIRST, 0)] if len(lookup) else one, one)
        if not torch.equal(other, expected):
            return False
    return True


def _links(
    positions: Array, inside: Array, shape: Shape, source: int, output: int
) -> tuple[list[Link], list[tuple[int, int, int]]] | None:
    """Take one output apart: which of its dimensions depend on which dimensions of one source."""
    box = tuple(_span(inside, axis) for axis in range(positions.ndim))
    sizes, positions, inside = positions.shape, positions[box], inside[box]
    axes = range(positions.ndim)
    coordinates = np.unravel_index(np.where(inside, positions, 0), shape) if shape else ()
    low = [np.where(inside, coordinate, np.iinfo(np.int64).max) for coordinate in coordinates]
    high = [np.where(inside, coordinate, -1) for coordinate in coordinates]
    groups: list[tuple[set[int], set[int]]] = []
    read = []
    for dim, size in enumerate(shape):
        if size == 1:
            continue
        moved = {axis for axis in axes if (high[dim].max(axis) > low[dim].min(axis)).any()}
        if not moved:
            read.append((source, dim, int(high[dim].max())))
            continue
        joined = [group for group in groups if group[1] & moved]
        groups = [group for group in groups if not group[1] & moved]
        groups.append(({dim}.union(*(g[0] for g in joined)), moved.union(*(g[1] for g in joined))))
    links = []
    for inputs, outputs in groups:
        others = tuple(axis for axis in axes if axis not in outputs)
        index = []
        for dim in sorted(inputs):
            table = high[dim].max(others, keepdims=True) if others else high[dim]
            if (inside & (coordinates[dim] != table)).any():
                return None
            whole = np.full([sizes[axis] for axis in sorted(outputs)], -1)
            whole[tuple(box[axis] for axis in sorted(outputs))] = table.squeeze(others)
            index.append(whole)
        links.append(Link(source, tuple(sorted(inputs)), output, tuple(sorted(outputs)), tuple(index)))
    return links, read


def _span(inside: Array, axis: int) -> slice:
    """Return where along an axis anything is inside."""
    there = np.flatnonzero(inside.any(tuple(other for other in range(inside.ndim) if other != axis)))
    return slice(int(there[0]), int(there[-1]) + 1)


def _written(inside: Array, linked: set[int], output: int) -> list[tuple[int, int, tuple[int, ...]]]:
    """Find the indices that a source holds along dimensions it has no say over, unless all hold the same."""
    found = []
    for axis, size in enumerate(inside.shape):
        if size == 1 or axis in linked or (inside.all(axis) == inside.any(axis)).all():
            continue
        others = tuple(other for other in range(inside.ndim) if other != axis)
        found.append((output, axis, tuple(np.flatnonzero(inside.any(others)).tolist())))
    return found

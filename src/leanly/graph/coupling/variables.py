"""Variables: one for every index of every dimension; the constraints say which of them leave together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import fx

Array: TypeAlias = np.ndarray
Dims: TypeAlias = list[np.ndarray]
"""A value's variables: an int64 array for each dimension, one entry an index."""

FROZEN = 0
"""The variable that never leaves: inputs, outputs, kernels, dimensions of size 1."""


@dataclass(frozen=True)
class Either:
    """An index of the whole leaves if and only if one of its factors does.

    Args:
        whole: variables over the grid of all factors, row-major; -1 where the grid has a hole.
        parts: for each axis of the grid the variables along it.
    """

    whole: Array
    parts: tuple[Array, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of the grid along each factor."""
        return tuple(len(part) for part in self.parts)


class Variables:
    """Counts out variables and collects what is known of them."""

    def __init__(self) -> None:
        self.count = 1
        self.equal: list[tuple[Array, Array]] = []
        self.either: list[Either] = []
        self.statistics: list[Array] = []
        self.barriers: dict[int, fx.Node] = {}

    def fresh(self, size: int) -> Array:
        """Return new variables for a dimension; one of size 1 is frozen."""
        if size == 1:
            return self.solid(1)
        start = self.count
        self.count += size
        return np.arange(start, self.count)

    def solid(self, size: int, by: int = FROZEN) -> Array:
        """Return a dimension that never loses an index."""
        return np.full(size, by)

    def barrier(self, node: fx.Node) -> int:
        """Return a frozen variable of its own for an operator without a rule, so that it can be named later."""
        number = self.count
        self.count += 1
        self.barriers[number] = node
        return number

    def same(self, one: Array, other: Array) -> None:
        """Index i of one dimension leaves if and only if index i of the other does."""
        if len(one) != len(other):
            raise ValueError(f"{len(one)} indices are not {len(other)}")
        if one is not other and len(one):
            self.equal.append((one, other))

    def freeze(self, variables: Array, by: int = FROZEN) -> None:
        """Keep a dimension whole; `by` is the operator's barrier where it is to blame."""
        loose = variables[~self.is_frozen(variables)]
        if len(loose):
            self.equal.append((loose, self.solid(len(loose), by)))

    def is_frozen(self, variables: Array) -> Array:
        """Say for each variable whether it is frozen by itself, before anything is solved."""
        return np.isin(variables, [FROZEN, *self.barriers])

    def grid(self, whole: Array, parts: tuple[Array, ...]) -> None:
        """The whole is laid out over its factors, row-major (-1: a hole)."""
        assert len(whole) == math.prod(len(part) for part in parts)
        self.either.append(Either(whole, parts))

    def changes_statistics(self, variables: Array) -> None:
        """Note that a mean or variance runs over this dimension: what stays sees other statistics after a cut."""
        self.statistics.append(variables)

"""Removal: what was chosen to leave so far, and what a further choice would take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leanly.graph.coupling import Axis, Coupling
from leanly.graph.coupling.units import Matrix
from leanly.prune.scores import Held

Array = np.ndarray
WITHIN = 0.1
"""A share counts as reached when it is off by no more than this part of it."""


@dataclass(frozen=True)
class Taken:
    """What some units take that is still there.

    Args:
        units: their numbers.
        classes: the classes of indices that leave.
        dims, counts: how many indices of which dimensions of `Coupling.dims`.
        loss: of the importance that is left in each dimension of each parameter, the share that leaves, times what the
            dimension is worth, added up.
    """

    units: Array
    classes: Array
    dims: Array
    counts: Array
    loss: float


class Removal:
    """Choices add up: units may overlap, and none may empty a dimension.

    Args:
        coupling: what can leave.
        held: importance of each class, from `scores.held_by`.
        multiple: widths are kept at multiples of it.
    """

    def __init__(self, coupling: Coupling, held: Held, multiple: int) -> None:
        self.coupling = coupling
        self.gone = np.zeros(coupling.classes, dtype=bool)
        self.lengths = coupling.dim_sizes.copy()
        self._shares, self._worth = held.shares, held.worth
        self._left = np.ones(len(held.worth))
        self.multiple = multiple
        self._scores = coupling.units @ (held.shares @ held.worth)
        self._parameter_dims = {place.place for place in coupling.parameter_dims}

    def ordered(self, axis: Axis) -> Array:
        """Return the units of an axis, the least important first."""
        return axis.units[np.argsort(self._scores[axis.units], kind="stable")]

    def scores(self, units: Array) -> Array:
        """Return the importance of units: their shares of all that is coupled, added up."""
        return self._scores[units]

    def step(self, units: Array) -> int:
        """Return how many of an axis's units have to leave at a time to keep widths at multiples.

        Units hold what others have left of them: a channel of every head is less wide when a head is gone.
        """
        if self.multiple == 1:
            return 1
        for unit in units:
            taken = self.takes(np.array([unit]))
            widths = [
                int(count) for dim, count in zip(taken.dims, taken.counts, strict=True) if dim in self._parameter_dims
            ]
            if widths:
                return int(self.multiple // np.gcd(self.multiple, min(widths)))
        return 1

    def takes(self, units: Array) -> Taken:
        """Say what units would take."""
        members = self.coupling.units
        classes = np.unique(np.concatenate([members.indices[self._span(members, unit)] for unit in units]))
        classes = classes[~self.gone[classes]]
        dims, counts = _gathered(self.coupling.class_dims, classes)
        places, lost = _gathered(self._shares, classes)
        loss = float((self._worth[places] * lost / np.maximum(self._left[places], 1e-12)).sum())
        return Taken(units, classes, dims, counts.astype(np.int64), loss)

    def is_legal(self, taken: Taken) -> bool:
        """Say whether something stays of every dimension."""
        return bool((self.lengths[taken.dims] > taken.counts).all())

    def after(self, taken: Taken) -> Array:
        """Return how long dimensions would be."""
        lengths = self.lengths.copy()
        lengths[taken.dims] -= taken.counts
        return lengths

    def take(self, taken: Taken) -> None:
        """Make the choice."""
        self.lengths = self.after(taken)
        self.gone[taken.classes] = True
        places, lost = _gathered(self._shares, taken.classes)
        self._left[places] -= lost

    @staticmethod
    def _span(matrix: Matrix, row: int) -> slice:
        return slice(matrix.indptr[row], matrix.indptr[row + 1])


def _gathered(matrix: Matrix, rows: Array) -> tuple[Array, Array]:
    """Return the columns that some rows of a matrix fill, and their sums."""
    starts, lengths = matrix.indptr[rows], matrix.indptr[rows + 1] - matrix.indptr[rows]
    offsets = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    entries = offsets + np.arange(len(offsets))
    columns, inverse = np.unique(matrix.indices[entries], return_inverse=True)
    return columns, np.bincount(inverse, weights=matrix.data[entries], minlength=len(columns))

"""`couple`: what of a graph may be cut together, as units that leave whole, and what can't be cut and why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import nn

from leanly.graph.coupling import units
from leanly.graph.coupling.solving import Solution, solve
from leanly.graph.coupling.units import Matrix
from leanly.graph.coupling.variables import Array
from leanly.graph.coupling.walking import wire
from leanly.graph.coupling.wiring import Wiring

if TYPE_CHECKING:
    from leanly.graph.graph import Graph


@dataclass(frozen=True)
class Frozen:
    """An operator that keeps whole what it touches: it has no rule, or lets indices compete (a softmax, a sort).

    Args:
        node, operator: the node's name and what it calls, as "aten.cumsum.default".
        source: the user's line.
        tensors: names of the parameters that can't be cut along some dimension because of it.
    """

    node: str
    operator: str
    source: str
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Axis:
    """Units of one kind: the heads of a layer, the channels of a convolution.

    Args:
        units: their numbers, rows of `Coupling.units`.
        disjoint: no two of them take the same index.
        changes_statistics: a norm or mean runs over what they leave, so that what stays sees other statistics.
    """

    units: Array
    disjoint: bool
    changes_statistics: bool


@dataclass(frozen=True)
class Group:
    """Axes that take the same indices away, each in its own way: whole heads, then the width of a head."""

    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class ParameterDim:
    """One dimension of one parameter.

    Args:
        name, dim: which dimension of which parameter.
        place: its number in `Coupling.dims`.
        classes: the class of each index.
    """

    name: str
    dim: int
    place: int
    classes: Array


class Coupling:
    """Which dimensions of a graph move together.

    Args:
        wiring, solution: variables and what they were found to be.
    """

    def __init__(self, wiring: Wiring, solution: Solution) -> None:
        self.wiring, self.solution = wiring, solution
        self.classes = len(solution.frozen)
        self.dims: list[Array] = []
        """Every different dimension that can lose something: the class of each index."""
        self.places: dict[str, list[list[int]]] = {}
        """For every value, its results' dimensions as numbers in `dims`; -1 where it stays whole."""
        self._number: dict[bytes, int] = {}
        for name, results in wiring.values.items():
            self.places[name] = [[self._place(dim) for dim in dims] for dims in results]
        for number in wiring.groups.values():
            self._place(number)
        self.dim_sizes = np.array([len(dim) for dim in self.dims], dtype=np.int64)
        self.class_dims = units.counts(self.dims, self.classes)
        self.units, self.unit_dims = self._found_units()
        self.groups = self._found_groups()

    def __repr__(self) -> str:
        return f"Coupling({len(self.groups)} groups, {self.units.shape[0]} units, {len(self.frozen)} frozen operators)"

    def _place(self, variables: Array) -> int:
        classes = self.solution.classes[variables]
        if self.solution.frozen[classes].all():
            return -1
        key = classes.tobytes()
        if key not in self._number:
            self._number[key] = len(self.dims)
            self.dims.append(classes)
        return self._number[key]

    @cached_property
    def parameter_dims(self) -> tuple[ParameterDim, ...]:
        """Every dimension of a parameter that can lose something; a parameter with two names under its first."""
        found = {}
        for node in self.wiring.graph.module.graph.nodes:
            if node.op != "get_attr" or not isinstance(self.wiring.tensor(node), nn.Parameter):
                continue
            for dim, place in enumerate(self.places[node.name][0]):
                if place >= 0:
                    key = (id(self.wiring.tensor(node)), dim)
                    found.setdefault(key, ParameterDim(str(node.target), dim, place, self.dims[place]))
        return tuple(found.values())

    @cached_property
    def frozen(self) -> tuple[Frozen, ...]:
        """The operators that keep parameters whole: those without a rule, and those that let indices compete."""
        held: dict[int, list[str]] = {}
        for name, dim in self._stored_dims():
            for number in self.solution.blame(dim)[1]:
                held.setdefault(number, []).append(name)
        return tuple(
            Frozen(node.name, str(node.target), self.wiring.graph.source(node), tuple(dict.fromkeys(held[number])))
            for number, node in self.wiring.variables.barriers.items()
            if number in held
        )

    @cached_property
    def held_indices(self) -> int:
        """How many indices of parameters stay only because of such operators, over all their dimensions."""
        return sum(self.solution.blame(dim)[0] for _, dim in self._stored_dims())

    def _stored_dims(self) -> list[tuple[str, Array]]:
        """List every dimension of every parameter."""
        return [
            (str(node.target), dim)
            for node in self.wiring.graph.module.graph.nodes
            if node.op == "get_attr" and isinstance(self.wiring.tensor(node), nn.Parameter)
            for dim in self.wiring.dims(node)
        ]

    def _found_units(self) -> tuple[Matrix, Matrix]:
        """Return units over classes, and how many indices of each dimension they take; none may empty one."""
        wholes = {whole for whole, _ in self.solution.either}
        loose = np.flatnonzero(~self.solution.frozen).tolist()
        found = units.closures((one for one in loose if one not in wholes), self.solution.either)
        rows = units.membership(found, self.classes)
        touched = (rows @ self.class_dims).tocsr()
        empties = touched.copy()
        empties.data = (touched.data >= self.dim_sizes[touched.indices]).astype(np.int64)
        legal = np.asarray(empties.sum(1)).ravel() == 0
        for needed in (self.is_stored, self._is_computed()):
            legal &= rows @ needed.astype(np.int64) > 0
        return rows[legal], touched[legal]

    @cached_property
    def is_stored(self) -> Array:
        """Mark the classes that stand along a parameter; others are no units of their own."""
        marked = np.zeros(self.classes, dtype=bool)
        for place in self.parameter_dims:
            marked[place.classes] = True
        return marked

    def _is_computed(self) -> Array:
        """Mark the classes that an operator gives back: rows of a table that nothing reads are no units."""
        marked = np.zeros(self.classes, dtype=bool)
        for node in self.wiring.graph.module.graph.nodes:
            if node.op == "call_function":
                for place in (place for dims in self.places.get(node.name, ()) for place in dims if place >= 0):
                    marked[self.dims[place]] = True
        return marked

    def _found_groups(self) -> tuple[Group, ...]:
        """Put units of one kind into an axis, and axes whose units overlap into a group."""
        marked = np.zeros(self.classes, dtype=np.int64)
        for variables in self.wiring.variables.statistics:
            marked[self.solution.classes[variables]] = 1
        flagged = self.units @ marked > 0
        alike = units.alike(self.unit_dims)
        if not alike:
            return ()
        indices = [self.units[rows].indices for rows in alike]
        members = [np.unique(found) for found in indices]
        axes = [
            Axis(rows, len(found) == len(different), bool(flagged[rows].any()))
            for rows, found, different in zip(alike, indices, members, strict=True)
        ]
        rows = np.repeat(np.arange(len(axes)), list(map(len, members)))
        shared = coo_matrix((np.ones(len(rows)), (rows, np.concatenate(members))), (len(axes), self.classes)).tocsr()
        group_of = connected_components(shared @ shared.T, directed=False)[1]
        groups: dict[int, list[Axis]] = {}
        for axis, group in zip(axes, group_of.tolist(), strict=True):
            groups.setdefault(group, []).append(axis)
        return tuple(
            Group(tuple(sorted(found, key=self._fineness) if len(found) > 1 else found)) for found in groups.values()
        )

    def _fineness(self, axis: Axis) -> tuple[int, int]:
        """Order axes: those whose units are the longest blocks of neighbours first, then those with the fewest."""
        unit = axis.units[0]
        span = slice(self.unit_dims.indptr[unit], self.unit_dims.indptr[unit + 1])
        touched = set(self.unit_dims.indices[span].tolist()) & {place.place for place in self.parameter_dims}
        return -units.longest_run(self.units[unit].indices, [self.dims[place] for place in touched]), len(axis.units)


def couple(graph: Graph, *, whole: frozenset[str] = frozenset()) -> Coupling:
    """Find which dimensions of which tensors move together, for any captured graph.

    Args:
        graph: it is not changed.
        whole: names of nodes that are to be kept as they are, with all they read and give.
    """
    wiring = wire(graph, whole)
    return Coupling(wiring, solve(wiring.variables))

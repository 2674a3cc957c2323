"""Units: what leaves together, found by following the relations from one class of variables at a time."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leanly.graph.coupling.variables import Array

Relation = tuple[int, tuple[int, ...]]
Matrix: TypeAlias = Any
"""A scipy.sparse.csr_matrix."""


def closures(sources: Iterable[int], relations: tuple[Relation, ...]) -> list[frozenset[int]]:
    """Return for each class the classes that leave with it, itself included; equal ones once.

    A factor that leaves takes its wholes along; a whole that leaves takes, of its factors, the one that costs the
    fewest further classes. Greedy: what it finds can be cut, but it may miss a smaller unit.
    """
    above: dict[int, list[int]] = defaultdict(list)
    below: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for whole, factors in relations:
        below[whole].append(factors)
        for factor in factors:
            above[factor].append(whole)
    closed: dict[int, frozenset[int]] = {}
    for source in sources:
        if source in above or source in below:
            closed[source] = _closure(source, above, below, closed)
        else:
            closed[source] = frozenset((source,))
    return list(dict.fromkeys(closed.values()))


def _closure(
    source: int,
    above: dict[int, list[int]],
    below: dict[int, list[tuple[int, ...]]],
    closed: dict[int, frozenset[int]],
) -> frozenset[int]:
    """Follow one class; where it takes one along that was followed before, that one's whole closure comes with it."""
    gone: set[int] = set()
    waiting = [source]
    undecided: list[int] = []
    while waiting or undecided:
        if waiting:
            one = waiting.pop()
            if one in gone:
                continue
            gone |= closed.get(one, frozenset())
            if one not in closed:
                gone.add(one)
                waiting += above.get(one, ())
                undecided += [one] if one in below else []
            continue
        whole = undecided.pop()
        for factors in below[whole]:
            if gone.isdisjoint(factors):
                waiting.append(min(factors, key=lambda factor: sum(one not in gone for one in above[factor])))
    return frozenset(gone)


def membership(units: list[frozenset[int]], classes: int) -> Matrix:
    """Return units as a matrix, a row a unit, one column a class."""
    starts = np.cumsum([0, *map(len, units)])
    columns = np.array([one for unit in units for one in sorted(unit)], dtype=np.int64)
    return csr_matrix((np.ones(len(columns), dtype=np.int64), columns, starts), shape=(len(units), classes))


def counts(dims: list[Array], classes: int) -> Matrix:
    """Return how many indices of each dimension (column) belong to each class (row)."""
    rows = np.concatenate([*dims, np.zeros(0, dtype=np.int64)])
    columns = np.repeat(np.arange(len(dims)), list(map(len, dims)))
    return csr_matrix((np.ones(len(rows), dtype=np.int64), (rows, columns)), shape=(classes, len(dims)))


def alike(touched: Matrix) -> list[Array]:
    """Group units that take as many indices of the same dimensions, in the order of their first."""
    found: dict[bytes, list[int]] = {}
    touched.sort_indices()
    for unit in range(touched.shape[0]):
        span = slice(touched.indptr[unit], touched.indptr[unit + 1])
        found.setdefault(touched.indices[span].tobytes() + b"|" + touched.data[span].tobytes(), []).append(unit)
    return [np.array(units) for units in found.values()]


def longest_run(unit: Array, dims: list[Array]) -> int:
    """Return the most neighbouring indices that a unit takes of one dimension: a whole head takes its width."""
    longest = 0
    for dim in dims:
        edges = np.flatnonzero(np.diff(np.isin(dim, unit).astype(np.int8), prepend=0, append=0))
        longest = max(longest, int((edges[1::2] - edges[::2]).max(initial=0)))
    return longest

"""Solving: from constraints to classes of equal variables, and the few either-or relations that are left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from leanly.graph.coupling.variables import FROZEN, Array, Either, Variables

if TYPE_CHECKING:
    from collections.abc import Iterable

Pairs = list[tuple[Array, Array]]


@dataclass(frozen=True)
class Solution:
    """What every variable belongs to.

    Args:
        classes: for each variable the number of its class; equal variables are of one class.
        frozen: for each class whether it stays.
        either: relations between loose classes: (whole, factors).
    """

    classes: Array
    frozen: Array
    either: tuple[tuple[int, tuple[int, ...]], ...]
    _parts: Array
    _holders: dict[int, set[int]]

    def blame(self, variables: Array) -> tuple[int, frozenset[int]]:
        """Count the variables that only barriers hold, no input, output or kernel; return the barriers as well."""
        parts = self._parts[variables]
        held = np.isin(parts, list(self._holders))
        return int(held.sum()), frozenset(
            number for part in set(parts[held].tolist()) for number in self._holders[part]
        )


def solve(variables: Variables) -> Solution:
    """Unite what is equal, drop what is frozen from the relations, and again, until nothing changes."""
    solids = np.array([FROZEN, *variables.barriers])
    pairs: Pairs = [(solids, solids), *variables.equal]
    equal = list(pairs)
    classes = np.arange(variables.count)
    frozen = np.zeros(0, dtype=bool)
    while pairs:
        classes = _united(classes, pairs)
        frozen = np.zeros(classes.max() + 1, dtype=bool)
        frozen[classes[solids]] = True
        found = [*_followed(variables.either, classes, frozen), *_matched(variables.either, classes)]
        pairs = [(one, other) for one, other in found if (classes[one] != classes[other]).any()]
        equal += pairs
    either = _relations(variables.either, classes, frozen)
    return Solution(classes, frozen, either, *_held(equal, solids, variables.count))


def _united(classes: Array, pairs: Pairs) -> Array:
    rows = classes[np.concatenate([one for one, _ in pairs])]
    columns = classes[np.concatenate([other for _, other in pairs])]
    size = int(classes.max()) + 1
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(size, size))
    return connected_components(graph, directed=False)[1][classes]


def _followed(relations: Iterable[Either], classes: Array, frozen: Array) -> Pairs:
    """A whole that stays keeps all its factors; a factor that stays decides nothing, and one that is left alone all."""
    pairs: Pairs = []
    for relation in relations:
        there = relation.whole >= 0
        whole = relation.whole[there]
        if frozen[classes[whole]].all() and all(frozen[classes[part]].all() for part in relation.parts):
            continue
        grid = np.indices(relation.shape).reshape(len(relation.shape), -1)[:, there]
        parts = [part[place] for part, place in zip(relation.parts, grid, strict=True)]
        stays = frozen[classes[whole]]
        loose = np.stack([~frozen[classes[part]] for part in parts])
        left = loose.sum(0)
        for part, is_loose in zip(parts, loose, strict=True):
            pairs.append((part[stays], whole[stays]))
            alone = is_loose & (left == 1)
            pairs.append((part[alone], whole[alone]))
        held = (left == 0) & ~stays
        pairs.append((whole[held], parts[0][held]))
        pairs += _collapsed(relation, classes, frozen)
    return pairs


def _collapsed(relation: Either, classes: Array, frozen: Array) -> Pairs:
    """Along an axis whose factor stays all entries of the whole are the same."""
    if (relation.whole < 0).any():
        return []
    grid = relation.whole.reshape(relation.shape)
    pairs: Pairs = []
    for axis, part in enumerate(relation.parts):
        if frozen[classes[part]].all() and len(part) > 1:
            first = np.broadcast_to(np.take(grid, [0], axis), grid.shape)
            pairs.append((grid.reshape(-1), first.reshape(-1)))
    return pairs


def _matched(relations: Iterable[Either], classes: Array) -> Pairs:
    """One whole laid out twice over a grid of one shape has the same factors; the same factors make the same whole.

    The first holds since no dimension loses all: with a[i] and b[j] that stay, whole[i, j] stays, so the other layout's
    c[i] and d[j] do, and whole[i, :] = b = d.
    """
    pairs: Pairs = []
    by_whole: dict[tuple[tuple[int, ...], bytes], Either] = {}
    by_parts: dict[tuple[bytes, ...], Either] = {}
    for relation in relations:
        if (relation.whole < 0).any():
            continue
        first = by_whole.setdefault((relation.shape, classes[relation.whole].tobytes()), relation)
        pairs += zip(relation.parts, first.parts, strict=True)
        key = tuple(classes[part].tobytes() for part in relation.parts)
        first = by_parts.setdefault(key, relation)
        pairs.append((relation.whole, first.whole))
    return pairs


def _relations(relations: Iterable[Either], classes: Array, frozen: Array) -> tuple[tuple[int, tuple[int, ...]], ...]:
    found: dict[tuple[int, tuple[int, ...]], None] = {}
    for relation in relations:
        there = relation.whole >= 0
        grid = np.indices(relation.shape).reshape(len(relation.shape), -1)[:, there]
        whole = classes[relation.whole[there]]
        parts = np.stack([classes[part][place] for part, place in zip(relation.parts, grid, strict=True)], 1)
        for one, factors in zip(whole.tolist(), parts.tolist(), strict=True):
            if not frozen[one]:
                loose = sorted({factor for factor in factors if not frozen[factor]})
                if loose != [one]:
                    found[one, tuple(loose)] = None
    return tuple(found)


def _held(equal: Pairs, solids: Array, count: int) -> tuple[Array, dict[int, set[int]]]:
    """Trace what is frozen back: the parts that hang together without frozen variables, and the barriers of each.

    A part that an input, an output or a kernel holds as well has no entry: no rule would set it free.
    """
    is_solid = np.zeros(count, dtype=bool)
    is_solid[solids] = True
    loose: Pairs = []
    holds: list[tuple[Array, Array]] = [(solids, solids)]
    for one, other in equal:
        for left, right in ((one, other), (other, one)):
            solid = is_solid[left] & ~is_solid[right]
            holds.append((left[solid], right[solid]))
        free = ~is_solid[one] & ~is_solid[other]
        loose.append((one[free], other[free]))
    parts = _united(np.arange(count), loose)
    by = np.concatenate([solid for solid, _ in holds])
    held = parts[np.concatenate([other for _, other in holds])]
    anyway = np.zeros(count, dtype=bool)
    anyway[held[by == FROZEN]] = True
    holders: dict[int, set[int]] = {}
    for solid, part in zip(by[~anyway[held]].tolist(), held[~anyway[held]].tolist(), strict=True):
        holders.setdefault(part, set()).add(solid)
    return parts, holders

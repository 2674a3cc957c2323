"""The same rule for every group of units: a share of it, or what lies below a threshold."""

from __future__ import annotations

import numpy as np

from leanly.errors import SettingError
from leanly.graph.coupling import Axis
from leanly.prune.removal import WITHIN, Array, Removal


def take_share(removal: Removal, groups: list[tuple[Axis, ...]], fraction: float) -> None:
    """Take a share of every group, the least important units first.

    Where axes take the same indices (heads, and the width of a head), whole heads go first; the finer axis only brings
    what they leave off to the share that was asked for.

    Args:
        groups: the axes that may be used, fewest units first.
        fraction: of the indices of each group.

    Raises:
        SettingError: an axis would lose all it has; names the fraction that fits.
    """
    emptied: list[tuple[float, int]] = []
    """Of each group that would lose all: the largest fraction that leaves something, and its units."""
    for axes in groups:
        for number, axis in enumerate(axes):
            members = _indices(removal, axis)
            last = number == len(axes) - 1
            if number and abs(removal.gone[members].mean() - fraction) <= WITHIN * fraction:
                continue
            if not _take(removal, axis, members, fraction, 1.0 if last else fraction * (1 + WITHIN)):
                count = len(axis.units)
                emptied += [(1 - min(removal.step(axis.units), count) / (2 * count), count)] if len(axes) == 1 else []
    if emptied:
        fits, smallest = min(emptied)
        wider = any(len(axis.units) > removal.step(axis.units) for axes in groups for axis in axes)
        remedies = [f"a fraction of at most {np.floor(fits * 100) / 100:g}"] if wider else []
        remedies += ["a smaller multiple"] if removal.multiple > 1 else []
        raise SettingError(
            f"fraction={fraction:g} would leave nothing of {len(emptied)} of {len(groups)} groups of units "
            f"(the smallest has {smallest})",
            where="Channels",
            remedy=f"use {', '.join(remedies)}, or macs=, which spares small layers",
        )


def take_below(removal: Removal, groups: list[tuple[Axis, ...]], threshold: float) -> None:
    """Take the units of each axis that hold less importance than a share of what the mean unit holds.

    Args:
        groups: the axes that may be used, fewest units first.
        threshold: the share, below 1; where widths are multiples, as many as leave one.
    """
    for axis in (axis for axes in groups for axis in axes):
        units = removal.ordered(axis)
        step = removal.step(units)
        scores = removal.scores(units)
        count = int((scores < threshold * scores.mean()).sum())
        count -= (count - len(units)) % step
        if count > 0 and removal.is_legal(taken := removal.takes(units[:count])):
            removal.take(taken)


def _take(removal: Removal, axis: Axis, members: Array, fraction: float, most: float) -> bool:
    """Take units while that brings the share closer, up to `most`; False where it would empty something."""
    units = removal.ordered(axis)
    step = removal.step(units)
    if axis.disjoint and not removal.gone[members].any():
        count = _nearest(len(units), step, fraction, most)
        taken = removal.takes(units[:count]) if count else None
        if taken is None or removal.is_legal(taken):
            if taken is not None:
                removal.take(taken)
            return True
    place = 0
    while place < len(units):
        count = (len(units) - place) % step or step
        taken = removal.takes(units[place : place + count])
        before = removal.gone[members].mean()
        share = before + np.isin(members, taken.classes, assume_unique=True).mean()
        if abs(share - fraction) >= abs(before - fraction) or share > most:
            return True
        if not removal.is_legal(taken):
            return False
        removal.take(taken)
        place += count
    return True


def _nearest(total: int, step: int, fraction: float, most: float) -> int:
    """Return how many of equal units come nearest to a share, the rest being a multiple of `step`; of two the fewer."""
    counts = [0, *range(total % step or step, total + 1, step)]
    return min(
        (count for count in counts if count <= most * total), key=lambda count: (abs(count / total - fraction), count)
    )


def _indices(removal: Removal, axis: Axis) -> Array:
    """Return the classes an axis takes that are along parameters."""
    found = np.unique(removal.coupling.units[axis.units].indices)
    return found[removal.coupling.is_stored[found]]

"""The units that cost least for the MACs they free, anywhere in the network."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from leanly.costs import CostTable
from leanly.errors import SettingError
from leanly.graph.coupling import Axis
from leanly.prune.removal import WITHIN, Array, Removal, Taken
from leanly.prune.work import Work

PIECES = 64
"""An axis is taken in pieces of a 64th: finer ones cost time and hardly move the outcome."""


@dataclass
class _Queue:
    """The units of one axis that are left, the least important first."""

    units: Array
    step: int = 1
    place: int = 0
    piece: int = 1
    idle: int = 0
    """So many pieces together are known to free nothing."""

    def next(self) -> Array:
        return self.some(self.piece)

    def some(self, pieces: int) -> Array:
        odd = (len(self.units) - self.place) % self.step
        count = odd + (pieces - 1) * self.step if odd else pieces * self.step
        return self.units[self.place : self.place + count]


def take_cheapest(
    removal: Removal, axes: list[Axis], share: float, costs: CostTable | None = None
) -> tuple[float, bool]:
    """Take units until a share of the MACs, or of the time, is gone.

    What a unit costs is the importance it holds of each weight, as a share of what is left there (the layer-adaptive
    score of Lee et al. 2021, for units): a layer that has lost much asks more for the next. Units are taken in the
    order of cost for each MAC, or second, that goes: a knapsack filled greedily (Shen et al. 2022, "Structural Pruning
    via Latency-Saliency Knapsack"). A step that goes too far is left for smaller ones elsewhere; where widths are
    multiples, what is nearest to the share is near enough, and smaller ones may not lose more than that step would.

    Args:
        axes: the axes that may be used.
        share: of all MACs, as `Graph.cost` counts them, or of the seconds of all layers.
        costs: seconds of each layer by its widths.

    Returns:
        The share that was reached, and whether steps are left that would go too far.

    Raises:
        SettingError: nothing takes anything: the network multiplies nothing, or the table has none of its layers.
    """
    work = Work(removal.coupling, costs)
    if not work.total:
        raise SettingError(
            "the network multiplies nothing" if costs is None else "no layer of the network takes time in the costs",
            where="Channels.macs" if costs is None else "Channels.costs",
            remedy="use fraction=" if costs is None else "measure this network: layers are known by their nodes' names",
        )
    total, target = work.total, share * work.total
    queues = [_Queue(removal.ordered(axis)) for axis in axes]
    heap: list[tuple[float, int]] = []
    for number, queue in enumerate(queues):
        queue.piece = max(1, len(queue.units) // (PIECES * removal.step(queue.units)))
        _push(heap, removal, work, queue, number)
    spared: list[Taken] = []
    spent = 0.0
    while heap and total - work.total < target:
        _, number = heapq.heappop(heap)
        queue = queues[number]
        queue.step = removal.step(queue.units[queue.place :])
        taken = removal.takes(queue.next())
        ratio, saved = _ratio(removal, work, taken)
        if heap and ratio > heap[0][0]:
            heapq.heappush(heap, (ratio, number))
            continue
        missing = target - (total - work.total)
        nearer = missing if removal.multiple > 1 and queue.piece == 1 else 0.0
        too_much = saved - missing > max(target * WITHIN, nearer)
        legal = removal.is_legal(taken)
        if too_much or not legal:
            if queue.piece > queue.idle + 1:
                queue.piece = max(queue.piece // 2, queue.idle + 1)
            elif legal:  # too much, and so is every other unit of this axis
                spared.append(taken)
                continue
            elif queue.idle:  # fewer free nothing, and these would empty a layer
                continue
            else:
                queue.place += len(taken.units)
            _push(heap, removal, work, queue, number)
            continue
        if spared and removal.multiple > 1:
            spent += taken.loss
            if spent > min(step.loss for step in spared):
                break
        removal.take(taken)
        work.shorten(removal.lengths, taken.dims)
        queue.place += len(taken.units)
        if queue.idle:
            queue.piece, queue.idle = 1, 0
        _push(heap, removal, work, queue, number)
    if total - work.total < target * (1 - WITHIN):
        _take_nearest(removal, work, [removal.takes(taken.units) for taken in spared], target - (total - work.total))
    return 1 - work.total / total if total else 0.0, bool(spared)


def smallest(removal: Removal, axes: list[Axis], costs: CostTable | None = None) -> float:
    """Return the least share of all MACs, or of the time, that one legal choice frees; 0 where there is none."""
    work = Work(removal.coupling, costs)
    queues = [_Queue(removal.ordered(axis), removal.step(axis.units)) for axis in axes]
    choices = [removal.takes(queue.next()) for queue in queues]
    saved = [_ratio(removal, work, taken)[1] for taken in choices if removal.is_legal(taken)]
    return min((one for one in saved if one > 0), default=0.0) / work.total


def _take_nearest(removal: Removal, work: Work, spared: list[Taken], missing: float) -> None:
    """Where no unit is small enough, take the one that comes nearest, if that is nearer than none."""
    saved = {number: _ratio(removal, work, taken)[1] for number, taken in enumerate(spared) if removal.is_legal(taken)}
    nearest = min(saved, key=lambda number: abs(saved[number] - missing), default=None)
    if nearest is not None and abs(saved[nearest] - missing) < missing:
        removal.take(spared[nearest])
        work.shorten(removal.lengths, spared[nearest].dims)


def _push(heap: list[tuple[float, int]], removal: Removal, work: Work, queue: _Queue, number: int) -> None:
    """Queue up the next units of an axis that free anything: what overlaps with others may be gone already.

    Where a time falls in steps of several units, so many are queued up at once.
    """
    while queue.place < len(queue.units):
        queue.step = removal.step(queue.units[queue.place :])
        ratio, saved = _ratio(removal, work, removal.takes(queue.next()))
        if saved > 0:
            heapq.heappush(heap, (ratio, number))
            return
        if work.in_steps:
            queue.piece = _fewest(removal, work, queue)
            queue.idle = queue.piece - 1
            if not queue.piece:
                return
        else:
            queue.place += len(queue.next())


def _fewest(removal: Removal, work: Work, queue: _Queue) -> int:
    """Return the fewest pieces that free anything together; 0 where all that are left free nothing."""
    low, high = queue.piece, -(-(len(queue.units) - queue.place) // queue.step) + 1
    most = high
    while high - low > 1:
        middle = (low + high) // 2
        if _ratio(removal, work, removal.takes(queue.some(middle)))[1] > 0:
            high = middle
        else:
            low = middle
    return high if high < most else 0


def _ratio(removal: Removal, work: Work, taken: Taken) -> tuple[float, float]:
    """Return cost for what goes, and how much that is."""
    saved = work.saved(removal.after(taken), taken.dims)
    return (taken.loss / saved if saved > 0 else float("inf")), saved

"""Channels: the pass that makes a network narrower."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leanly.costs import CostTable
from leanly.errors import LeanlyError, LeanlyWarning, SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.checking import check_target
from leanly.graph.coupling import Axis, Coupling, Unfit, couple, remove
from leanly.prune.cheapest import smallest, take_cheapest
from leanly.prune.importance import IN_LOSS, magnitude, resolve_importance, usual
from leanly.prune.removal import WITHIN, Removal
from leanly.prune.scores import checked, everywhere, held_by
from leanly.prune.uniform import take_below, take_share
from leanly.scalars import check_flag, is_number, is_whole
from leanly.target import Target
from leanly.task import Task

WAYS = ("fraction", "macs", "latency", "threshold")


@dataclass(frozen=True)
class Channels:
    """Remove channels, features, attention heads, feed-forward and residual width, whatever of it can be cut together.

    Give one of `fraction`, `macs`, `latency` and `threshold`. Li et al. 2017, "Pruning Filters for Efficient ConvNets";
    coupled layers as in Fang et al. 2023, "DepGraph: Towards Any Structural Pruning".

    Args:
        fraction: this share of the units of every coupled group; of attention, whole heads first.
        macs: the cheapest units anywhere until this share of the MACs is gone: those that hold the least importance, as
            a share of what is left in their weights, for each MAC (see `take_cheapest`). What criteria in units of the
            loss (`gradient`, `expected_gradient`, `fisher`) score a layer in all counts, too.
        latency: the same until this share of the time of all layers is gone, as `costs` says; widths whose time does
            not fall are left.
        threshold: the units that hold less importance than this share of what the mean unit of their kind holds.
        costs: seconds of each layer by its widths, measured on the target.
        importance: `leanly.prune.magnitude`, `gradient`, another criterion of that signature, or its name; None takes
            `expected_gradient` where the task has rows (their labels are not read), and `magnitude` without.
        multiple: widths that are cut stay multiples of it; of the MACs, or the time, leaves what is nearest then.
        normalized: also remove what a layer norm or mean runs over, as the residual width of a transformer; what stays
            then sees other statistics.
    """

    fraction: float | None = None
    macs: float | None = None
    latency: float | None = None
    costs: CostTable | None = None
    importance: Callable[[Graph, Task | None], dict[str, Any]] | str | None = None
    multiple: int = 1
    normalized: bool = True
    threshold: float | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in WAYS if getattr(self, name) is not None}
        if len(given) != 1:
            raise SettingError(
                f"{' and '.join(given) if given else 'none of ' + ', '.join(WAYS)} {'are' if given else 'is'} given",
                where="Channels",
                remedy="give one: fraction=0.5 of every group, macs=0.4 of all multiplications, latency=0.4 of the "
                "time with costs=leanly.costs.CostTable(...), or threshold=0.1 of the mean unit's importance",
            )
        if isinstance(self.costs, Mapping) and "layers" in self.costs:  # as a recipe's JSON holds it
            object.__setattr__(self, "costs", CostTable(**self.costs))
        if self.costs is not None and not isinstance(self.costs, CostTable):
            raise SettingError(
                f"costs is a {type(self.costs).__name__}", where="Channels", remedy="give leanly.costs.CostTable(...)"
            )
        if (self.latency is None) != (self.costs is None):
            raise SettingError(
                f"{'costs are' if self.latency is None else 'latency is'} given alone",
                where="Channels",
                remedy="give latency=0.4 and costs=leanly.costs.CostTable(...) together",
            )
        ((name, value),) = given.items()
        if not (is_number(value) and 0 < value < 1):
            raise SettingError(f"{name}={value!r}", where="Channels", remedy="use a float between 0 and 1, as 0.5")
        if not is_whole(self.multiple, 1):
            raise SettingError(f"multiple={self.multiple!r}", where="Channels", remedy="use an int from 1, as 8")
        check_flag(self.normalized, name="normalized", where="Channels")
        if self.importance is not None:
            object.__setattr__(self, "importance", resolve_importance(self.importance))

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a narrower graph; `kept` tells which indices of each parameter remain.

        Raises:
            SettingError: nothing can be removed (names the operators), or a layer would be cut to nothing.
            DataError: the importance needs labelled data, and there is none.
        """
        check_graph(graph, "Channels")
        check_target(target, "Channels")
        importance = usual(graph, task) if self.importance is None else resolve_importance(self.importance)
        name = getattr(importance, "__name__", type(importance).__name__)
        saliency = checked(graph, importance(graph, task), name)
        in_loss = inspect.unwrap(importance) in map(inspect.unwrap, IN_LOSS)
        whole: frozenset[str] = frozenset()
        while True:
            coupling = couple(graph, whole=whole)
            scored = held_by(coupling, saliency, comparable=in_loss)
            held, silent = everywhere(coupling, scored, graph)
            removal = Removal(coupling, held, self.multiple)
            reached, coarse = self._choose(coupling, removal, chosen=bool(whole))
            try:
                small = remove(coupling, removal.gone)
            except Unfit as error:
                if error.nodes <= whole:
                    raise LeanlyError(
                        f"the graph can't be cut at {error}",
                        where="Channels",
                        remedy="report the network; a smaller share may pass",
                    ) from error
                whole |= error.nodes
                continue
            if silent:
                told = f"{name} says nothing about {_some(silent)}: magnitude decides there"
                if importance is magnitude:
                    told = f"all of {_some(silent)} is zero: none of it matters more than the rest"
                small.notes = (*small.notes, f"prune.Channels: {told}")
            return self._told(small, coupling, reached, coarse=coarse, unchanged=not removal.gone.any())

    def _choose(self, coupling: Coupling, removal: Removal, *, chosen: bool) -> tuple[float, bool]:
        """Choose what leaves; return the share that was reached, and whether what is left goes in too large steps.

        Args:
            coupling: of the graph.
            removal: takes what leaves.
            chosen: whether an earlier choice couldn't be carried out, so that what stood in its way is held now.
        """
        groups = [
            tuple(axis for axis in group.axes if self.normalized or not axis.changes_statistics)
            for group in coupling.groups
        ]
        groups = [axes for axes in groups if axes]
        if not groups:
            held = _listed(coupling)
            if coupling.groups:
                raise SettingError(
                    "nothing can be removed that no norm or mean runs over",
                    where="Channels",
                    remedy="use normalized=True, which cuts that too",
                )
            if chosen:
                raise SettingError(
                    f"the units that matter least can't be removed: {held}",
                    where="Channels",
                    remedy="use another share or importance, which takes other units, or write those lines with other "
                    "operators",
                )
            alone = "inputs and outputs hold every dimension of more than one index"
            raise SettingError(
                f"nothing can be removed: {held or alone}",
                where="Channels",
                remedy=_remedy(coupling) if held else "leave this network as it is",
            )
        if self.threshold is not None:
            take_below(removal, groups, self.threshold)
            return 1.0, False
        if self.fraction is not None:
            take_share(removal, groups, self.fraction)
            return _share_of_indices(coupling, removal, groups), False
        name, what = ("macs", "MACs") if self.macs is not None else ("latency", "time")
        asked = getattr(self, name)
        axes = [axis for group in groups for axis in group]
        reached, steps_left = take_cheapest(removal, axes, asked, self.costs)
        coarse = reached > 0 and steps_left
        if reached < asked * (1 - WITHIN) and not (coupling.frozen or coarse):
            raise self._out_of_reach(name, what, reached, removal, axes)
        return reached, coarse

    def _out_of_reach(self, name: str, what: str, reached: float, removal: Removal, axes: list[Axis]) -> SettingError:
        """Say why a share can't be reached, and which can."""
        asked, least = getattr(self, name), 0.0 if reached else smallest(removal, axes, self.costs)
        if least:
            told = f"the least that can go is {least:.3g} of the {what}"
            remedies = [f"use {name}={np.ceil(least * 1000) / 1000:g} or more"]
        else:
            told = f"{max(reached, 0.0):.3g} of the {what} is all that can go before a layer is left with nothing"
            remedies = [f"use {name}={np.floor(reached * 100) / 100:g} or less"] if reached >= 0.01 else []
        if self.multiple > 1:
            told += f", widths being multiples of {self.multiple}"
            remedies.append("a smaller multiple")
        if not self.normalized and any(
            axis.changes_statistics for group in removal.coupling.groups for axis in group.axes
        ):
            remedies.append("normalized=True, which cuts too what a norm or mean runs over")
        return SettingError(
            f"{name}={asked:g} can't be reached: {told}",
            where="Channels",
            remedy=", or ".join(remedies) or "leave this network as it is",
        )

    def _told(self, small: Graph, coupling: Coupling, reached: float, *, coarse: bool, unchanged: bool) -> Graph:
        """Add to the notes what was kept whole, and warn where the cut falls short because of it, or is none."""
        held = _listed(coupling, cut={name for name, places in small.kept.items() if places})
        if held:
            small.notes = (*small.notes, f"prune.Channels: {held}")
        asked = self.fraction or self.macs or self.latency or 0.0
        what = "indices that could be cut" if self.fraction is not None else "MACs" if self.macs else "time"
        if held and reached < asked * (1 - WITHIN) and not coarse:
            told = f"Channels was to remove {asked:.3g} of the {what} and removed {reached:.3g}: {held}"
            remedy = f"{_remedy(coupling)}, or leave those layers as they are"
        elif unchanged and self.threshold is not None:
            told = (
                f"Channels removed nothing: no unit holds less than {self.threshold:.3g} of the mean unit's importance"
            )
            remedy = "use a larger threshold" + (" or a smaller multiple" if self.multiple > 1 else "")
        elif unchanged:
            rounding = f" in multiples of {self.multiple}" if self.multiple > 1 else ""
            told = f"Channels removed nothing: {asked:.3g} of each group of units, rounded{rounding}, is none"
            remedy = "use a larger fraction" + (" or a smaller multiple" if rounding else "")
        else:
            if self.fraction is None and self.threshold is None and abs(reached - asked) > WITHIN * asked:
                why = f"widths are multiples of {self.multiple}" if self.multiple > 1 else "the next step is as large"
                told = f"{asked:.3g} of the {what} asked for, {reached:.3g} gone: {why}"
                small.notes = (*small.notes, f"prune.Channels: {told}")
            return small
        warnings.warn(f"{told}. What to do: {remedy}.", LeanlyWarning, stacklevel=4)
        return small


def _share_of_indices(coupling: Coupling, removal: Removal, groups: list[tuple[Axis, ...]]) -> float:
    """Return what share left of the indices of parameters that are in units or would be, had operators a rule."""
    usable = np.zeros(coupling.classes, dtype=bool)
    for axis in (axis for axes in groups for axis in axes):
        usable[coupling.units[axis.units].indices] = True
    removed = sum(int(removal.gone[place.classes].sum()) for place in coupling.parameter_dims)
    total = sum(int(usable[place.classes].sum()) for place in coupling.parameter_dims)
    return removed / (total + coupling.held_indices)


def _listed(coupling: Coupling, cut: Collection[str] = ()) -> str:
    """Name the operators without a rule, their lines, and what they keep whole: of what is cut, a dimension."""
    told = []
    for item in coupling.frozen:
        names = [f"a dimension of {name}" if name in cut else name for name in item.tensors]
        told.append(f"{item.operator} at {item.source} keeps {_some(names)} whole")
    told = list(dict.fromkeys(told))  # a cell that runs step by step is one line
    return "; ".join(told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")


def _remedy(coupling: Coupling) -> str:
    """Say what lets go of what operators keep whole."""
    if all(item.operator.startswith("leanly.") for item in coupling.frozen):
        return "put Channels in front of the pass of leanly.quantize that brought those operators"
    return "write those lines with other operators"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")

"""Allocation: what each layer takes at several widths, measured on copies of the network that are narrower."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from leanly.artifact import Artifact
from leanly.costs import CostTable, NodeTimes
from leanly.errors import LeanlyError
from leanly.files import cache_folder, digest, make_folder, read_json, write_json
from leanly.graph import Graph
from leanly.prune import Channels, magnitude
from leanly.recipe import Pass, Recipe
from leanly.target import Target

NARROWER = (0.25, 0.5, 0.75)
"""Share of the units of every group that the first copies lack."""
AS_CUT = (0.3, 0.6)
"""Of the time that channels can save at all: what the other copies lack, cut by what the first ones took."""
COPIES = 1 + len(NARROWER) + len(AS_CUT)

Timed = Callable[[Graph, Artifact, int, Artifact | None], NodeTimes]
"""`(graph, artifact, batch size, beside)`: times the nodes of an artifact that was made of a graph, and another one in
turns with it."""
Widths = tuple[float, float]
"""Elements of a layer's output for a row, and products that are added up in each."""


def measure_costs(
    graph: Graph, target: Target, make: Callable[[Graph], Artifact], timed: Timed, *, multiple: int
) -> CostTable | None:
    """Measure what each layer takes at several widths; None where the runtime tells of no layer, or at one width only,
    or where by what was measured narrower layers save no time.

    Copies that are narrower all over come first, then some that are cut as the table so far says, whose layers differ
    in width as those of the cuts to come. Layers of the same shape learn from each other. A width that the network or
    the runtime refuses, as one that would empty a small layer, is left out. What lies between layers is shared out
    among them, so that a table's sum is the time of the whole network; several batch sizes count alike.

    Args:
        graph: in float.
        target: batch sizes and threads.
        make: graph -> artifact, quantized and lowered as it will run, in a folder of its own.
        timed: times the nodes of an artifact.
        multiple: that widths are kept at.
    """
    ruler = _Ruler(graph, target, make, timed)
    if not ruler.measure(()):
        return None
    for share in NARROWER:
        ruler.measure((Channels(fraction=share, importance=magnitude, multiple=multiple),))
    table = ruler.table()
    if all(len(found) == 1 for found in table.layers.values()):
        return None

    def cut(share: float) -> Channels:
        gone = share * (1 - least_share(table))
        return Channels(latency=gone, costs=table, importance=magnitude, multiple=multiple)

    try:
        for share in AS_CUT:
            ruler.measure((cut(share),))
            table = ruler.table()
        cut(AS_CUT[0])(graph)
    except LeanlyError:
        return None
    return table


class _Ruler:
    """Times copies of a network and collects what each layer took, as a share of the whole network's time."""

    def __init__(self, graph: Graph, target: Target, make: Callable[[Graph], Artifact], timed: Timed) -> None:
        self._graph, self._target, self._make, self._timed = graph, target, make, timed
        self._whole: Artifact | None = None
        self._wholes: list[float] = []
        self._shares: dict[str, dict[Widths, float]] = {}
        self._kinds = {
            node.name: (node.operator, node.output_shape, node.macs) for node in graph.cost(1).nodes if node.macs
        }

    def measure(self, cut: tuple[Pass, ...]) -> bool:
        """Cut a copy and time it, the whole network first; say whether it could be, and the runtime told of layers."""
        try:
            graph = Recipe(cut)(self._graph)
            artifact = self._make(graph)
        except LeanlyError:
            return False
        widths = layer_widths(graph)
        if self._shares:  # a layer is known by what it took whole
            widths = {name: widths[name] for name in self._shares if name in widths}
        found = [self._timed(graph, artifact, size, self._whole) for size in self._target.batch_sizes]
        self._whole, self._wholes = self._whole or artifact, self._wholes or [times.whole for times in found]
        shares: dict[str, list[float]] = {}
        for times in found:
            layers = {name: seconds for name, seconds in times.layers.items() if name in widths}
            known = sum(layers.values())
            if not known:
                return False
            for name, seconds in layers.items():
                share = seconds / known * (times.whole / times.beside if times.beside else 1.0)
                shares.setdefault(name, []).append(share)
        for name, new in shares.items():
            # a copy that is cut as the cuts to come tells more than one that is narrower all over; none of the whole
            known_at = self._shares.setdefault(name, {})
            if widths[name] != next(iter(known_at), None):
                known_at[widths[name]] = statistics.fmean(new)
        return True

    def table(self) -> CostTable:
        usual = math.exp(statistics.fmean(map(math.log, self._wholes)))
        # the first of them is the whole layer: a copy of another one tells of this one by how much less it took
        lefts: dict[object, dict[Widths, list[float]]] = {}
        for name, found in self._shares.items():
            whole = next(iter(found.values()))
            for widths, share in found.items():
                lefts.setdefault(self._kinds[name], {}).setdefault(widths, []).append(share / max(whole, 1e-12))
        layers = {}
        for name, found in self._shares.items():
            whole = next(iter(found.values()))
            others = {widths: whole * statistics.fmean(left) for widths, left in lefts[self._kinds[name]].items()}
            layers[name] = tuple((*widths, usual * share) for widths, share in {**others, **found}.items())
        return CostTable(layers, machine=self._target.machine.processor)


def layer_widths(graph: Graph) -> dict[str, Widths]:
    """Return both widths of each layer that multiplies."""
    return {
        node.name: (float(math.prod(node.output_shape)), node.macs / math.prod(node.output_shape))
        for node in graph.cost(1).nodes
        if node.macs
    }


def kept_costs(key: Mapping[str, object], measure: Callable[[], CostTable | None]) -> CostTable | None:
    """Return the table that was measured on this machine for networks of these shapes, or measure it and keep it.

    Args:
        key: JSON that says which shapes, which machine and which runtime.
        measure: measures.
    """
    path = cache_folder() / "costs" / f"{digest(dict(key))[:32]}.json"
    # a table that is torn is measured again, and one that can't be kept too, the next time
    with contextlib.suppress(LeanlyError, OSError, TypeError):
        return CostTable(**read_json(path))
    table = measure()
    if table is not None:
        with contextlib.suppress(LeanlyError, OSError):
            make_folder(path.parent)
            write_json(path, {"layers": table.layers, "machine": table.machine})
    return table


def least_share(costs: CostTable) -> float:
    """Return the share of the time that is left where every layer is as narrow as it was measured."""
    points = costs.layers.values()
    return sum(min(seconds for _, _, seconds in one) for one in points) / sum(one[-1][2] for one in points)


def foreseen(costs: CostTable, graph: Graph) -> float:
    """Return the seconds that a table foresees for a graph."""
    return sum(costs.seconds(name, *widths) for name, widths in layer_widths(graph).items())


def error_of(foreseen_and_measured: Sequence[tuple[float, float]]) -> float:
    """Return the median of how far what was foreseen lies from what was measured, as a share of the latter."""
    return statistics.median(abs(one / other - 1) for one, other in foreseen_and_measured)

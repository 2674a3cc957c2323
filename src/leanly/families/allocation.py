"""Allocation: what each layer takes at several widths, measured on copies of the network that are narrower."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from leanly.artifact import Artifact
from leanly.costs import CostTable, NodeTimes
from leanly.errors import LeanlyError
from leanly.files import cache_folder, digest, make_folder, read_json, write_json
from leanly.graph import Graph
from leanly.prune import Channels, magnitude
from leanly.target import Target

if TYPE_CHECKING:
    from leanly.task import Task

NARROWER = (0.25, 0.5, 0.75)
"""Share of the units of every group that the copies lack."""


Timed = Callable[[Graph, Artifact, int], NodeTimes]
"""`(graph, artifact, batch size)`: times the nodes of an artifact that was made of a graph."""


def measure_costs(
    graph: Graph, task: Task, target: Target, make: Callable[[Graph], Artifact], timed: Timed, *, multiple: int
) -> CostTable | None:
    """Measure what each layer takes at several widths; None where the runtime tells of no layer, or at one width only.

    A width that the network or the runtime refuses, as one that would empty a small layer, is left out. What lies
    between layers is shared out among them, so that a table's sum is the time of the whole network; several batch sizes
    count alike.

    Args:
        graph: in float.
        task: gives the rows that copies are calibrated on.
        target: batch sizes and threads.
        make: graph -> artifact, quantized and lowered as it will run.
        timed: times the nodes of an artifact.
        multiple: that widths are kept at.
    """
    wholes: list[float] = []
    points: dict[str, dict[float, list[float]]] = {}
    for share in (0.0, *NARROWER):
        narrow = graph
        try:
            if share:
                narrow = Channels(fraction=share, importance=magnitude, multiple=multiple)(graph, task, target)
            artifact = make(narrow)
        except LeanlyError:
            if not share:
                return None
            continue
        macs = {node.name: float(node.macs) for node in narrow.cost(1).nodes if node.macs}
        for number, size in enumerate(target.batch_sizes):
            times = timed(narrow, artifact, size)
            layers = {name: seconds for name, seconds in times.layers.items() if name in macs}
            known = sum(layers.values())
            if not known:
                return None
            if not share:
                wholes.append(times.whole)
            for name, seconds in layers.items():
                shared_out = seconds * times.whole / known
                points.setdefault(name, {}).setdefault(macs[name], []).append(shared_out / wholes[number])
    if all(len(found) == 1 for found in points.values()):
        return None
    usual = math.exp(statistics.fmean(map(math.log, wholes)))
    table = {
        name: tuple((count, usual * statistics.fmean(shares)) for count, shares in sorted(found.items()))
        for name, found in points.items()
    }
    return CostTable(table, machine=target.machine.processor)


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
    return sum(min(seconds for _, seconds in one) for one in points) / sum(one[-1][1] for one in points)


def foreseen(costs: CostTable, graph: Graph) -> float:
    """Return the seconds that a table foresees for a graph."""
    return sum(costs.seconds(node.name, float(node.macs)) for node in graph.cost(1).nodes)


def error_of(foreseen_and_measured: Sequence[tuple[float, float]]) -> float:
    """Return the median of how far what was foreseen lies from what was measured, as a share of the latter."""
    return statistics.median(abs(one / other - 1) for one, other in foreseen_and_measured)

"""Precisions: what layers take in integers and in float, measured on artifacts that are all the one or the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from leanly.artifact import Artifact
from leanly.costs import FLOATS, NodeTimes, PrecisionTimes
from leanly.families.allocation import Timed
from leanly.graph import Graph

BORDER = 0.2
"""Of the mean time of a layer in integers, by which one in float takes longer at least: at its borders values are
rounded and read back, which no wholly integer or float artifact shows."""
UNKNOWN = 2.0
"""Times that a layer takes longer in float where nothing was timed."""


def measure_precisions(
    layers: Iterable[str], made: Mapping[str, tuple[Graph, Artifact]], timed: Timed | None, batch_size: int
) -> PrecisionTimes:
    """Measure what each layer takes in each precision; all alike where the runtime tells of no layer.

    What lies between layers is shared out among them, so that a precision's sum is the time of the whole network. A
    layer that the runtime does not name takes as long as they do on average.

    Args:
        layers: names of the layers.
        made: by precision, the graph and the artifact that was made of it; "int8" among them.
        timed: times the nodes of an artifact; None times nothing.
        batch_size: rows in a call.
    """
    layers = list(layers)
    found = {}
    first: tuple[Artifact, float] | None = None
    for precision, (graph, artifact) in made.items():
        times = NodeTimes({}, 0.0) if timed is None else timed(graph, artifact, batch_size, first and first[0])
        first = first or (artifact, times.whole)
        known = {name: seconds for name, seconds in times.layers.items() if name in layers}
        if not sum(known.values()):
            continue
        usual = fmean(known.values())
        whole = first[1] * times.whole / times.beside if times.beside else times.whole
        shared_out = whole / (usual * len(layers))
        found[precision] = {name: known.get(name, usual) * shared_out for name in layers}
    if "int8" not in found or len(found) == 1:
        return PrecisionTimes({name: {"int8": 1.0, **dict.fromkeys(FLOATS, UNKNOWN)} for name in layers})
    integer = found.pop("int8")
    least = BORDER * fmean(integer.values())
    return PrecisionTimes(
        {
            name: {
                "int8": integer[name],
                **{precision: max(seconds[name], integer[name] + least) for precision, seconds in found.items()},
            }
            for name in layers
        }
    )

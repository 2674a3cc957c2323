"""Which smaller networks are worth a try: layers gone, channels gone, both, at several fractions."""

from __future__ import annotations

import statistics

from leanly.costs import CostTable
from leanly.families.allocation import least_share
from leanly.families.tries import Cut
from leanly.graph import Graph
from leanly.graph.blocks import find_blocks
from leanly.graph.layers import learned_layers
from leanly.prune import Channels, Layers, Refit, magnitude, skipping
from leanly.prune.importance import Importance
from leanly.prune.refitting import is_solvable
from leanly.recipe import Pass
from leanly.training import BatchNorm

LAYER_SHARES = (0.25, 0.4, 0.48, 0.55, 0.62, 0.7)
CHANNEL_SHARES = (0.3, 0.5, 0.7, 0.85, 0.93, 0.96)
TIME_SHARES = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Of the time that channels can save at all, where it is known what layers take."""
BOTH = ((0.4, 0.4), (0.55, 0.5))
"""Share of the layers, then of the MACs, or of the time, left in channels."""
FEATURES = 200.0
"""What hidden values count where layers are gone: what is left can give them all. Where channels are gone it can't, and
learns worse by trying."""
MULTIPLE = 8
"""Integer kernels work through channels in groups: 17 take as long as 24. Networks that are narrower than four groups
in most layers are cut in smaller steps."""


def cuts(graph: Graph, costs: CostTable | None = None, importance: Importance | None = magnitude) -> list[Cut]:
    """Name the smaller networks of a graph, the most moderate of each kind first.

    Args:
        graph: the whole network.
        costs: what its layers take at several widths; without, channels leave by their MACs.
        importance: of channels; None is what `Channels` takes where none is named.
    """
    blocks, multiple = len(find_blocks(graph)), width_multiple(graph)
    most = 1.0 if costs is None else 1 - least_share(costs)
    shares = CHANNEL_SHARES if costs is None else [share * most for share in TIME_SHARES]
    what = "MACs" if costs is None else "time"
    counts = {round(share * blocks) for share in LAYER_SHARES}
    restored = _restored(graph)
    found = [
        Cut(f"{blocks - count} of {blocks} layers", (_layers(count),), FEATURES, restored)
        for count in sorted(counts)
        if 0 < count <= blocks
    ]
    found += [
        Cut(f"{share:.0%} of {what} off channels", (_channels(share, multiple, costs, importance),), restored=restored)
        for share in shares
    ]
    for layer_share, share in BOTH:
        count = round(layer_share * blocks)
        if count:
            label = f"{blocks - count} of {blocks} layers and {share * most:.0%} of {what} off channels"
            both = (_layers(count), _channels(share * most, multiple, costs, importance))
            found.append(Cut(label, both, restored=restored))
    return found


def _restored(graph: Graph) -> tuple[Pass, ...]:
    """Return what brings a smaller network nearer to the whole one; layers that Refit leaves need new statistics."""
    layers = learned_layers(graph)
    solved = [layer for layer in layers if is_solvable(graph, layer)]
    if not solved:
        return (BatchNorm(),)
    return (Refit(),) if len(solved) == len(layers) else (BatchNorm(), Refit())


def _layers(count: int) -> Pass:
    return Layers(count=count, importance=skipping)


def _channels(share: float, multiple: int, costs: CostTable | None, importance: Importance | None) -> Pass:
    if costs is not None:
        return Channels(latency=share, costs=costs, importance=importance, multiple=multiple)
    return Channels(macs=share, importance=importance, multiple=multiple)


def width_multiple(graph: Graph) -> int:
    """Return what the widths of the cuts are multiples of."""
    widths = [parameter.shape[0] for _, parameter in graph.named_parameters() if parameter.ndim > 1]
    usual = statistics.median(widths) if widths else 0
    return next((step for step in (MULTIPLE, MULTIPLE // 2) if usual >= 4 * step), 1)

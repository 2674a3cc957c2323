"""Which smaller networks are worth a try: layers gone, channels gone, both, at several fractions."""

from __future__ import annotations

import statistics

from leanly.families.tries import Cut
from leanly.graph import Graph
from leanly.graph.blocks import find_blocks
from leanly.prune import Channels, Layers, magnitude, skipping
from leanly.recipe import Pass
from leanly.training import BatchNorm

LAYER_SHARES = (0.25, 0.4, 0.48, 0.55, 0.62, 0.7)
CHANNEL_SHARES = (0.3, 0.5, 0.7, 0.85, 0.93, 0.96)
BOTH = ((0.4, 0.4), (0.55, 0.5))
"""Share of the layers, then of the MACs left in channels."""
FEATURES = 200.0
"""What hidden values count where layers are gone: what is left can give them all. Where channels are gone it can't, and
learns worse by trying."""
MULTIPLE = 8
"""Integer kernels work through channels in groups: 17 take as long as 24. Networks that are narrower than four groups
in most layers are cut in smaller steps."""


def cuts(graph: Graph) -> list[Cut]:
    """Name the smaller networks of a graph, the most moderate of each kind first."""
    blocks, multiple = len(find_blocks(graph)), _multiple(graph)
    counts = {round(share * blocks) for share in LAYER_SHARES}
    found = [
        Cut(f"{blocks - count} of {blocks} layers", (_layers(count), BatchNorm()), FEATURES)
        for count in sorted(counts)
        if 0 < count <= blocks
    ]
    found += [
        Cut(f"{share:.0%} of MACs off channels", (_channels(share, multiple), BatchNorm())) for share in CHANNEL_SHARES
    ]
    for layer_share, share in BOTH:
        count = round(layer_share * blocks)
        if count:
            label = f"{blocks - count} of {blocks} layers and {share:.0%} of MACs off channels"
            found.append(Cut(label, (_layers(count), _channels(share, multiple), BatchNorm())))
    return found


def _layers(count: int) -> Pass:
    return Layers(count=count, importance=skipping)


def _channels(share: float, multiple: int) -> Pass:
    return Channels(macs=share, importance=magnitude, multiple=multiple)


def _multiple(graph: Graph) -> int:
    """Return what the widths of the cuts are multiples of."""
    widths = [parameter.shape[0] for _, parameter in graph.named_parameters() if parameter.ndim > 1]
    usual = statistics.median(widths) if widths else 0
    return next((step for step in (MULTIPLE, MULTIPLE // 2) if usual >= 4 * step), 1)

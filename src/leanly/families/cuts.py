"""Which smaller networks are worth a try: layers gone, channels gone, both, at several fractions."""

from __future__ import annotations

from leanly.families.ladder import Cut
from leanly.graph import Graph
from leanly.graph.blocks import find_blocks
from leanly.prune import Channels, Layers, magnitude, skipping
from leanly.recipe import Pass
from leanly.training import BatchNorm

LAYER_SHARES = (0.25, 0.4, 0.55, 0.7)
CHANNEL_SHARES = (0.3, 0.5, 0.7, 0.85, 0.93)
BOTH = ((0.4, 0.4), (0.55, 0.5))
"""Share of the layers, then of the MACs left in channels."""


def cuts(graph: Graph) -> list[Cut]:
    """Name the smaller networks of a graph, the most moderate of each kind first."""
    blocks = len(find_blocks(graph))
    counts = {round(share * blocks) for share in LAYER_SHARES}
    found = [
        Cut(f"{blocks - count} of {blocks} layers", (_layers(count), BatchNorm()))
        for count in sorted(counts)
        if 0 < count <= blocks
    ]
    found += [Cut(f"{share:.0%} of MACs off channels", (_channels(share), BatchNorm())) for share in CHANNEL_SHARES]
    for layer_share, share in BOTH:
        count = round(layer_share * blocks)
        if count:
            label = f"{blocks - count} of {blocks} layers and {share:.0%} of MACs off channels"
            found.append(Cut(label, (_layers(count), _channels(share), BatchNorm())))
    return found


def _layers(count: int) -> Pass:
    return Layers(count=count, importance=skipping)


def _channels(share: float) -> Pass:
    return Channels(macs=share, importance=magnitude)

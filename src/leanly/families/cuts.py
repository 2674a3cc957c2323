"""Which smaller networks are worth a try: layers gone, channels gone, both, at several fractions."""

from __future__ import annotations

from leanly.families.ladder import Cut
from leanly.graph import Graph
from leanly.prune import Channels, magnitude


def removable_blocks(graph):
    return ()


class Layers:
    pass


from leanly.recipe import Pass

LAYER_SHARES = (0.25, 0.4, 0.55, 0.7)
CHANNEL_SHARES = (0.3, 0.5, 0.7, 0.85, 0.93)
BOTH = ((0.4, 0.4), (0.55, 0.5))
"""Share of the layers, then of the MACs left in channels."""


def cuts(graph: Graph) -> list[Cut]:
    """Name the smaller networks of a graph, the most moderate of each kind first."""
    blocks = len(removable_blocks(graph))
    layers = {round(share * blocks): share for share in LAYER_SHARES}
    found = [
        Cut(f"{blocks - count} of {blocks} layers", (_layers(count),))
        for count in sorted(layers)
        if 0 < count <= blocks
    ]
    found += [Cut(f"{share:.0%} of MACs off channels", (_channels(share),)) for share in CHANNEL_SHARES]
    for layer_share, share in BOTH:
        count = round(layer_share * blocks)
        if count:
            label = f"{blocks - count} of {blocks} layers and {share:.0%} of MACs off channels"
            found.append(Cut(label, (_layers(count), _channels(share))))
    return found


def _layers(count: int) -> Pass:
    return Layers(count=count, importance=magnitude)


def _channels(share: float) -> Pass:
    return Channels(macs=share, importance=magnitude)

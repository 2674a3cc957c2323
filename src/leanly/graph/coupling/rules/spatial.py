"""Pooling, resizing, sampling, unfolding: rows and channels pass, positions stay whole."""

from __future__ import annotations

import math
import re

from torch import fx

from leanly.graph.coupling.variables import Dims
from leanly.graph.coupling.wiring import Wiring
from leanly.graph.nodes import argument


def positions(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Keep the last dimensions whole: as many as the operator's name says ("max_pool2d": two)."""
    x = wiring.dims(wiring.sources(node)[0])
    count = int(re.findall(r"([123])d", str(node.target))[0])
    by = wiring.hold(node, *x[-count:])
    return [
        [*x[:-count], *(wiring.variables.solid(size, by) for size in shape[-count:])] for shape in wiring.shapes(node)
    ]


def sampled(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Read at positions that another tensor names: rows and channels pass."""
    x, grid = wiring.given(node, "input"), wiring.given(node, "grid")
    by = wiring.hold(node, *x[2:], *grid[1:])
    return [[*x[:2], *(wiring.variables.solid(size, by) for size in wiring.shape(node)[2:])]]


def unfolded(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Put what a kernel sees of every channel side by side: a channel leaves with all of that."""
    *rows, channels, height, width = wiring.given(node, "self")
    by = wiring.hold(node, height, width)
    taps = wiring.variables.solid(math.prod(argument(node, "kernel_size")))
    side = wiring.variables.fresh(len(channels) * len(taps))
    wiring.variables.grid(side, (channels, taps))
    return [[*rows, side, wiring.variables.solid(wiring.shape(node)[-1], by)]]


def folded(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Add up at every position what kernels put there: the reverse of `unfolded`."""
    *rows, side, places = wiring.given(node, "self")
    by = wiring.hold(node, places)
    taps = wiring.variables.solid(math.prod(argument(node, "kernel_size")))
    channels = wiring.variables.fresh(len(side) // len(taps))
    wiring.variables.grid(side, (channels, taps))
    return [[*rows, channels, *(wiring.variables.solid(size, by) for size in wiring.shape(node)[-2:])]]


_POOLS = ("avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool")
_RESIZES = (
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d"),
    *("upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d"),
    *("_upsample_nearest_exact3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
)
_BORDERS = ("reflection_pad", "replication_pad")
RULES = {
    **{f"{name}{count}d": positions for name in (*_POOLS, *_BORDERS) for count in (1, 2, 3)},
    **{f"max_pool{count}d_with_indices": positions for count in (1, 2, 3)},
    **{f"_adaptive_avg_pool{count}d": positions for count in (2, 3)},
    **dict.fromkeys(_RESIZES, positions),
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), sampled),
    "im2col": unfolded,
    "col2im": folded,
}

"""Pooling and resizing: rows and channels pass, positions stay whole."""

from __future__ import annotations

import re

from torch import fx

from leanly.graph.coupling.variables import Dims
from leanly.graph.coupling.wiring import Wiring


def positions(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Keep the last dimensions whole: as many as the operator's name says ("max_pool2d": two)."""
    x = wiring.dims(wiring.sources(node)[0])
    count = int(re.findall(r"([123])d", str(node.target))[0])
    by = wiring.hold(node, *x[-count:])
    return [
        [*x[:-count], *(wiring.variables.solid(size, by) for size in shape[-count:])] for shape in wiring.shapes(node)
    ]


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
}

"""CostTable: what layers were measured to take at several widths, so that a pass can read off what a cut saves."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from leanly.errors import SettingError


@dataclass(frozen=True)
class NodeTimes:
    """Seconds of an artifact's nodes: those that are layers of its graph, by name, and of all together."""

    layers: Mapping[str, float]
    whole: float


@dataclass(frozen=True)
class CostTable:
    """Measured seconds of each layer against its MACs a row; between two measurements it is a straight line.

    Args:
        layers: by the name of the node, (MACs, seconds) in the order of the MACs, at least one.
        machine: where it was measured, in words.

    Raises:
        SettingError: a layer without a measurement, or MACs that do not rise.
    """

    layers: Mapping[str, tuple[tuple[float, float], ...]]
    machine: str = ""

    def __post_init__(self) -> None:
        try:
            layers = {str(name): tuple((float(a), float(b)) for a, b in points) for name, points in self.layers.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise SettingError(
                f"layers is {self.layers!r}",
                where="CostTable",
                remedy='give (MACs, seconds) pairs by layer: {"conv2d": [(1e6, 1e-3)]}',
            ) from error
        object.__setattr__(self, "layers", layers)
        for name, points in layers.items():
            rising = all(one[0] < other[0] for one, other in itertools.pairwise(points))
            finite = all(math.isfinite(number) for point in points for number in point)
            if not points or not rising or not finite or min(seconds for _, seconds in points) < 0:
                raise SettingError(
                    f"the measurements of {name!r} are {points}",
                    where="CostTable",
                    remedy="give (MACs, seconds) pairs, each with more MACs than the one before",
                )

    def __hash__(self) -> int:
        return hash((tuple(self.layers.items()), self.machine))

    def seconds(self, layer: str, macs: float) -> float:
        """Return what a layer takes with so many MACs; 0 where it has none or was not measured."""
        points = self.layers.get(layer)
        if not points or macs <= 0:
            return 0.0
        if len(points) == 1:
            return points[0][1]
        place = min(max(bisect_left([count for count, _ in points], macs), 1), len(points) - 1)
        (low, first), (high, last) = points[place - 1], points[place]
        return max(first + (last - first) * (macs - low) / (high - low), 0.0)

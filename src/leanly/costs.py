"""What layers were measured to take, at several widths and in several precisions, so that a pass can read it off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from leanly.errors import SettingError

FLOATS = ("float32", "bfloat16")
"""Precisions of what is not computed in integers."""
BY_PRECISION = 'give seconds by layer and precision: {"conv2d": {"int8": 1e-5, "float32": 3e-5}}'


@dataclass(frozen=True)
class NodeTimes:
    """Seconds of an artifact's nodes.

    Args:
        layers: those that are layers of its graph, by name.
        whole: of all together.
        beside: of another artifact that was timed in turns with it; None where there was none.
    """

    layers: Mapping[str, float]
    whole: float
    beside: float | None = None


@dataclass(frozen=True)
class CostTable:
    """Measured seconds of each layer against both of its widths, as look-up tables of latency are (Shen et al. 2022,
    "Structural Pruning via Latency-Saliency Knapsack").

    A kernel works through what it is given, and what it gives, in blocks: two layers of the same MACs take what their
    two widths make of them, not the same.

    Args:
        layers: by the name of the node, (outputs, terms, seconds) measurements, at least one: elements of the output
            for a row, products that are added up in each of them. The largest is of the whole layer.
        machine: where it was measured, in words.

    Raises:
        SettingError: a layer without a measurement, two of the same widths, or numbers that can't be.
    """

    layers: Mapping[str, tuple[tuple[float, float, float], ...]]
    machine: str = ""

    def __post_init__(self) -> None:
        try:
            layers = {
                str(name): tuple(
                    sorted(
                        ((float(outputs), float(terms), float(seconds)) for outputs, terms, seconds in points),
                        key=lambda point: (point[0] * point[1], point),
                    )
                )
                for name, points in self.layers.items()
            }
        except (AttributeError, TypeError, ValueError) as error:
            raise SettingError(
                f"layers is {self.layers!r}",
                where="CostTable",
                remedy='give (outputs, terms, seconds) by layer: {"conv2d": [(4096, 144, 1e-3)]}',
            ) from error
        object.__setattr__(self, "layers", layers)
        for name, points in layers.items():
            fit = all(
                math.isfinite(outputs * terms * seconds) and outputs * terms > 0 and seconds >= 0
                for outputs, terms, seconds in points
            )
            if not points or not fit or len({point[:2] for point in points}) < len(points):
                raise SettingError(
                    f"the measurements of {name!r} are {points}",
                    where="CostTable",
                    remedy="give (outputs, terms, seconds), each pair of widths once",
                )

    def __hash__(self) -> int:
        return hash((tuple(self.layers.items()), self.machine))

    def seconds(self, layer: str, outputs: float, terms: float) -> float:
        """Return what a layer takes at two widths; 0 where it has no work left or was not measured.

        Between measurements it is a straight line in the MACs, through those most whose widths are near.
        """
        points = self.layers.get(layer)
        if not points or outputs * terms <= 0:
            return 0.0
        if len(points) == 1:
            return points[0][2]
        widest = max(point[0] for point in points), max(point[1] for point in points)
        weights = []
        for point in points:
            away = ((point[0] - outputs) / widest[0]) ** 2 + ((point[1] - terms) / widest[1]) ** 2
            if away == 0:
                return point[2]
            weights.append(1 / away)
        macs = [point[0] * point[1] for point in points]
        return _line(macs, [point[2] for point in points], weights, outputs * terms)


@dataclass(frozen=True)
class PrecisionTimes:
    """Measured seconds of each layer in each precision; few bits of weights are computed in "int8".

    Args:
        layers: by the name of the node, seconds in "int8", and in "float32" and "bfloat16" where it was run so.

    Raises:
        SettingError: a precision that does not exist, a layer without "int8", or seconds that are none.
    """

    layers: Mapping[str, Mapping[str, float]]

    def __post_init__(self) -> None:
        try:
            layers = {str(name): {key: float(value) for key, value in one.items()} for name, one in self.layers.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise SettingError(f"layers is {self.layers!r}", where="PrecisionTimes", remedy=BY_PRECISION) from error
        object.__setattr__(self, "layers", layers)
        for name, seconds in layers.items():
            known = "int8" in seconds and {*seconds} <= {"int8", *FLOATS}
            if not known or not all(math.isfinite(value) and value >= 0 for value in seconds.values()):
                raise SettingError(
                    f"the seconds of {name!r} are {seconds}", where="PrecisionTimes", remedy=BY_PRECISION
                )

    def __hash__(self) -> int:
        return hash(frozenset(self.layers))

    def seconds(self, layer: str, precision: str) -> float | None:
        """Return what a layer takes in a precision; None where it was not measured."""
        return self.layers.get(layer, {}).get(precision)


def _line(xs: list[float], ys: list[float], weights: list[float], at: float) -> float:
    """Return where the weighted least-squares line lies; it falls nowhere, and is not below zero."""
    total = sum(weights)
    x, y = (sum(w * v for w, v in zip(weights, values, strict=True)) / total for values in (xs, ys))
    spread = sum(w * (one - x) ** 2 for w, one in zip(weights, xs, strict=True))
    rise = sum(w * (one - x) * (other - y) for w, one, other in zip(weights, xs, ys, strict=True))
    slope = max(rise / spread, 0.0) if spread else 0.0
    return max(y + slope * (at - x), 0.0)

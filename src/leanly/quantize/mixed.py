"""Mixed: bits, or float, chosen for each layer, so that the outputs move least within average bits and time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from leanly.costs import FLOATS, PrecisionTimes
from leanly.errors import DataError, SettingError
from leanly.graph import Graph
from leanly.quantize.alone import Sensitivity, sensitivities
from leanly.quantize.calibration import calibration_batches
from leanly.quantize.choosing import Limit, least_error
from leanly.quantize.forms import Form, check_runs
from leanly.quantize.quantizers import check_float_outputs, check_quantizable
from leanly.quantize.static import Static
from leanly.scalars import check_whole, is_number, is_whole
from leanly.target import Target
from leanly.task import Task

FLOAT = 32
"""Bits of a weight that stays float."""


@dataclass(frozen=True)
class Mixed:
    """Give each layer the precision that serves the outputs best, within so many bits on average and so much time.

    Each layer is rounded alone to each number of bits, and the squared change of the outputs seen; chosen is what sums
    up to the least. The error of layers rounded together is close to the sum of theirs, as in Dong et al. 2020,
    "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks"; within a time, Yao et al. 2021, "HAWQ-V3:
    Dyadic Neural Network Quantization". Few bits save bytes: they take as long as eight.

    Args:
        average: bits of a weight, on average; None for no limit.
        choices: bits that a layer may get, 2 to 8; two of them, or one beside float.
        static: how all else is quantized; the bits of weights are chosen here.
        rows: on which the change of the outputs is seen, the first of `train` (of `validation` where there is none).
        times: what layers were measured to take; with it they may stay float, which is 32 bits of a weight.
        slower: share by which layers in float may make all of them slower than in integers; needs `times`.
        rest: "float32" or "bfloat16": what layers in float are computed in; needs `times`.

    Raises:
        SettingError: a setting out of its range.
    """

    average: float | None = 4.0
    choices: tuple[int, ...] = (2, 3, 4, 6, 8)
    static: Static = field(default_factory=Static)
    rows: int = 32
    times: PrecisionTimes | None = None
    slower: float = 0.05
    rest: str = "float32"

    def __post_init__(self) -> None:
        if isinstance(self.choices, Iterable) and not isinstance(self.choices, str):
            object.__setattr__(self, "choices", tuple(self.choices))
        # as a recipe's JSON holds them
        if isinstance(self.static, Mapping):
            object.__setattr__(self, "static", Static(**self.static))
        if isinstance(self.times, Mapping):
            object.__setattr__(self, "times", PrecisionTimes(**self.times))
        if not isinstance(self.static, Static):
            raise SettingError(f"static is {self.static!r}", where="Mixed", remedy="give quantize.Static(...)")
        if not isinstance(self.times, PrecisionTimes | None):
            raise SettingError(f"times is {self.times!r}", where="Mixed", remedy="give costs.PrecisionTimes(...)")
        least = "two" if self.times is None else "one"
        fit = isinstance(self.choices, tuple) and all(is_whole(bits, 2) and bits <= 8 for bits in self.choices)
        if not fit or len(set(self.choices)) < (2 if self.times is None else 1):
            raise SettingError(
                f"choices={self.choices!r}", where="Mixed", remedy=f"give {least} or more, each from 2 to 8"
            )
        object.__setattr__(self, "choices", tuple(sorted(set(self.choices))))
        most = self.choices[-1] if self.times is None else FLOAT
        if self.average is not None and not (is_number(self.average) and self.choices[0] <= self.average <= most):
            raise SettingError(
                f"average={self.average!r}",
                where="Mixed",
                remedy=f"give a number from {self.choices[0]} to {most}, what the choices allow, or None",
            )
        if not (is_number(self.slower) and self.slower >= 0):
            raise SettingError(f"slower={self.slower!r}", where="Mixed", remedy="give a share, such as 0.05")
        if self.rest not in FLOATS:
            raise SettingError(f"rest={self.rest!r}", where="Mixed", remedy=f"use {' or '.join(FLOATS)}")
        if self.times is None and (self.slower, self.rest) != (Mixed.slower, Mixed.rest):
            raise SettingError(
                f"slower={self.slower} and rest={self.rest!r} are of layers in float, and none is without times",
                where="Mixed",
                remedy="give times=costs.PrecisionTimes(...), or leave both out",
            )
        if self.static.weight_bits:
            raise SettingError(
                f"static has weight_bits={self.static.weight_bits!r}, which Mixed chooses",
                where="Mixed",
                remedy="leave it out, or quantize with Static alone",
            )
        check_whole(self.rows, 1, name="rows", where="Mixed")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a quantized graph; its notes say which layer got how many bits.

        Raises:
            DataError: no rows, rows of another shape, or outputs that become NaN with all bits that fit.
            SettingError: nothing to quantize, weights of another precision than float32, no output that holds floats,
                or a target whose runtimes have no integer kernels.
        """
        check_quantizable(graph, "Mixed")
        check_float_outputs(graph, "Mixed")
        check_runs(Form.INTEGERS, target, "Mixed")
        even = replace(self.static, weights=8, weight_bits=())(graph, task, target)
        batches = list(calibration_batches(graph, task, self.rows))
        static = self.settled(sensitivities(even, batches, self.choices, self.static.granularity))
        quantized = static(graph, task, target)
        floats = set(static.float_nodes) - set(self.static.float_nodes)
        told = [*(f"{name} {bits}" for name, bits in static.weight_bits), *(f"{name} float" for name in sorted(floats))]
        quantized.notes = (*quantized.notes, f"quantize.Mixed: bits of weights: {', '.join(told)}")
        return quantized

    def settled(self, layers: Mapping[str, Sensitivity]) -> Static:
        """Return the quantization that is chosen.

        Args:
            layers: by name, what the bits of each change in the outputs.
        """
        errors = {
            name: {bits: layer.errors[bits] for bits in self.choices if math.isfinite(layer.errors[bits])}
            for name, layer in layers.items()
        }
        limits = []
        if self.times is not None:
            seconds = self._seconds(self.times, layers)
            for name in seconds:
                if FLOAT in seconds[name]:
                    errors[name][FLOAT] = 0.0
            whole = sum(by_bits[self.choices[0]] for by_bits in seconds.values())
            limits.append(Limit(seconds, (1 + self.slower) * whole))
        if self.average is not None:
            sizes = {name: {bits: bits * layers[name].weights for bits in errors[name]} for name in layers}
            limits.append(Limit(sizes, self.average * sum(layer.weights for layer in layers.values())))
        chosen = least_error(errors, limits) if all(errors.values()) else None
        if chosen is None:
            odd = [name for name, by_bits in errors.items() if len(by_bits) < len(self.choices)]
            raise DataError(
                f"outputs become NaN or infinite on calibration rows with bits of {self.choices}, and no others fit",
                where=f"Mixed, {', '.join(odd[:3])}",
                remedy="take rows out that give NaN in float too; else leave these layers in float "
                "(Static.float_nodes), or allow more bits",
            )
        floats = [name for name, bits in chosen.items() if bits == FLOAT]
        return replace(
            self.static,
            float_nodes=(*self.static.float_nodes, *floats),
            weight_bits=tuple((name, bits) for name, bits in chosen.items() if bits != FLOAT),
        )

    def _seconds(self, times: PrecisionTimes, layers: Mapping[str, Sensitivity]) -> dict[str, dict[int, float]]:
        """Return what each layer takes by its bits; in float only where it was measured so and nothing forbids it."""
        found, named = {}, dict(self.static.layer_bits)
        for name, layer in layers.items():
            integer, floating = times.seconds(name, "int8"), times.seconds(name, self.rest)
            found[name] = dict.fromkeys(self.choices, integer or 0.0)
            # a layer in float would read the rounded weight that it shares with others
            if floating is not None and not layer.shared and name not in named:
                found[name][FLOAT] = floating
        return found

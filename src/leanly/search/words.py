"""How figures are written: one unit, few digits, the interval beside the value."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from leanly.artifact import Artifact
from leanly.measurement.records import Interval

FRACTIONS = ("accuracy", "top5", "f1")
"""Metrics between 0 and 1 that people read in percent."""


def seconds(value: float) -> str:
    """Write a duration: "35 us", "1.24 ms", "12 s", "3 min 5 s"."""
    if value < 0:
        return "-" + seconds(-value)
    if value == 0:
        return "0 s"
    if value < 1e-3:
        return f"{_digits(value * 1e6)} us"
    if value < 1:
        return f"{_digits(value * 1e3)} ms"
    if value < 10:
        return f"{value:.1f} s"
    if value < 100:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def left(value: float) -> str:
    """Write how much time is left: "12 s left", "time is up"."""
    return f"{seconds(value)} left" if value > 0 else "time is up"


def latency(interval: Interval) -> str:
    """Write a latency with its interval in one unit: "1.24 ms (1.21 to 1.30)"."""
    factor, unit = (1e6, "us") if interval.value < 1e-3 else (1e3, "ms") if interval.value < 1 else (1.0, "s")
    value, low, high = (_digits(number * factor) for number in (interval.value, interval.low, interval.high))
    return f"{value} {unit} ({low} to {high})"


def times(interval: Interval) -> str:
    """Write a ratio with its interval: "3.10x (2.95 to 3.30)"."""
    return f"{_ratio(interval.value)}x ({_ratio(interval.low)} to {_ratio(interval.high)})"


def size(value: float) -> str:
    """Write bytes: "512 B", "1.7 MB"."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{_digits(value)} {unit}"
        value /= 1000
    return f"{_digits(value)} GB"


def count(value: float) -> str:
    """Write a count: "512", "1.7 M"."""
    for unit in ("", " k", " M"):
        if value < 1000:
            return f"{value:.0f}" if not unit else f"{_digits(value)}{unit}"
        value /= 1000
    return f"{_digits(value)} G"


def metric(value: float | None, name: str) -> str:
    """Write a metric in the unit people read it in: "98.40 %", "0.873"."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value * 100:.2f} %" if name in FRACTIONS else f"{value:.4g}"


def drop(value: float, name: str) -> str:
    """Write a difference in the metric: "0.35 points" of percent, or plain."""
    return f"{value * 100:.2f} points" if name in FRACTIONS else f"{value:.4g}"


def drop_interval(interval: Interval, name: str) -> str:
    """Write a drop with its interval: "0.12 points (-0.05 to 0.31)"."""
    if name in FRACTIONS:
        return f"{interval.value * 100:.2f} points ({_bound(interval.low, 100)} to {_bound(interval.high, 100)})"
    return f"{interval.value:.4g} ({_bound(interval.low, 1)} to {_bound(interval.high, 1)})"


def percent(value: float) -> str:
    """Write a share: "95 %"."""
    return f"{value * 100:.4g} %"


def storage_only(artifact: Artifact) -> list[str]:
    """Say which weights are stored in fewer bits than they are computed in."""
    computed = "float32" if artifact.precision == "float32" else "int8"
    return [
        f"weights of {bits} bit{'s' if bits > 1 else ''} ({count} tensor{'s' if count > 1 else ''}) are stored so and "
        f"computed in {computed}: storage only"
        for bits, count in sorted(Counter(artifact.code_bits.values()).items())
    ]


def one_bit_no_faster(artifact: Artifact, other: Artifact, ratios: Mapping[int, Interval]) -> str:
    """Say where one-bit layers are not shown to gain time over an artifact without them; "" where they are.

    Args:
        artifact: whose layers may be in one bit.
        other: timed in turns with it.
        ratios: seconds of `artifact` over those of `other`, by batch size.
    """
    slow = [str(size) for size, ratio in ratios.items() if ratio.high >= 1]
    if not slow or not _has_signs(artifact) or _has_signs(other):
        return ""
    return (
        f"one-bit layers are not shown to be faster than {other.precision} in {other.runtime} at batch "
        f"{' and '.join(slow)}: storage only there"
    )


def _has_signs(artifact: Artifact) -> bool:
    return artifact.precision == "binary" or 1 in artifact.code_bits.values()


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _bound(value: float, factor: int) -> str:
    if not math.isfinite(value):
        return "no bound"
    return f"{value * factor:.2f}" if factor == 100 else f"{value:.4g}"

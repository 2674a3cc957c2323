"""Budget: what may be spent, and reading "1%", "30min", "2MB", "5ms", "2x"."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from leanly.errors import SettingError

# Decimal, so that "80us" is the float nearest to 0.00008 and not a product of two rounded ones.
TIME_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), Decimal(1)),
    **dict.fromkeys(("m", "min", "minute", "minutes"), Decimal(60)),
    **dict.fromkeys(("h", "hour", "hours"), Decimal(3600)),
    **dict.fromkeys(("d", "day", "days"), Decimal(86400)),
}
BYTE_UNITS = {
    **{unit: Decimal(1000**power) for power, unit in enumerate(("b", "kb", "mb", "gb", "tb"))},
    **{unit: Decimal(1024**power) for power, unit in enumerate(("b", "kib", "mib", "gib", "tib"))},
}
LATENCY_UNITS = {
    "ns": Decimal("1e-9"),
    **dict.fromkeys(("us", "\u00b5s", "\u03bcs"), Decimal("1e-6")),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
}

_NUMBER = r"[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?"


@dataclass(frozen=True, init=False)
class Budget:
    """What may be spent.

    Args:
        max_drop: largest loss in the metric against the float32 model in eager PyTorch, absolute and in the metric's
            own units: 0.01 or "1%".
        confidence: level of every test and interval, above 0.5 and below 1.
        speedup: wanted speed-up against the unmodified model's fastest float artifact: 2 or "2x"; None asks for none.
        bytes: largest artifact: a number, "2MB" (1,000,000 each) or "2MiB" (1,048,576 each); None sets no limit.
        latency: largest median latency of a call: seconds, "5ms" or "80us"; None sets no limit.
        time: how long the search may take, certification included: seconds, "90s", "10min", "2h30min".

    Raises:
        SettingError: a value that can't be read or is out of its range.
    """

    max_drop: float
    confidence: float
    speedup: float | None
    bytes: int | None
    latency: float | None
    time: float

    def __init__(
        self,
        max_drop: float | str = 0.01,
        confidence: float | str = 0.95,
        speedup: float | str | None = None,
        bytes: float | str | None = None,
        latency: float | str | None = None,
        time: float | str = "10min",
    ) -> None:
        level = read_fraction("confidence", confidence)
        if not 0.5 < level < 1.0:
            raise _out_of_range("confidence", confidence, "must lie above 0.5 and below 1", "write 0.95")
        set_field = object.__setattr__
        set_field(self, "max_drop", read_fraction("max_drop", max_drop))
        set_field(self, "confidence", level)
        set_field(self, "speedup", None if speedup is None else read_speedup(speedup))
        set_field(self, "bytes", None if bytes is None else read_bytes(bytes))
        set_field(self, "latency", None if latency is None else read_latency(latency))
        set_field(self, "time", read_time(time))

    @property
    def seconds(self) -> float:
        """The time, in seconds."""
        return self.time

    def __repr__(self) -> str:
        parts = [f"max_drop={_percent(self.max_drop)}", f"confidence={self.confidence!r}"]
        if self.speedup is not None:
            parts.append(f"speedup='{self.speedup:.17g}x'")
        if self.bytes is not None:
            parts.append(f"bytes={_written(self.bytes, BYTE_UNITS, ('B', 'kB', 'MB', 'GB'), read_bytes)}")
        if self.latency is not None:
            parts.append(f"latency={_written(self.latency, LATENCY_UNITS, ('us', 'ms', 's'), read_latency)}")
        parts.append(f"time={_written(self.time, TIME_UNITS, ('s', 'min', 'h'), read_time)}")
        return f"Budget({', '.join(parts)})"


def read_fraction(setting: str, value: float | str) -> float:
    """Read 0.01, "0.01" or "1%" as 0.01.

    Raises:
        SettingError: it is negative, not finite, or not a number.
    """
    remedy = 'write a fraction such as 0.01, or a percentage such as "1%"'
    if isinstance(value, str):
        digits = value.strip().removesuffix("%").strip()
        number = _plain(setting, digits, value, remedy)
        if value.strip().endswith("%"):
            number = _scaled(digits, Decimal("0.01"))
    else:
        number = _plain(setting, value, value, remedy)
    if number < 0:
        raise _out_of_range(setting, value, "can't be negative", remedy)
    return number


def read_time(value: float | str, setting: str = "time") -> float:
    """Read seconds, "90s", "10min", "1h" or "2h30min" as seconds.

    Raises:
        SettingError: it is 0, negative, not finite, or not a time.
    """
    return _quantity(
        setting, value, TIME_UNITS, 'write seconds, or a time such as "90s", "10min" or "2h30min"', many=True
    )


def read_latency(value: float | str, setting: str = "latency") -> float:
    """Read seconds, "5ms" or "80us" as seconds.

    Raises:
        SettingError: it is 0, negative, not finite, or not a latency.
    """
    return _quantity(setting, value, LATENCY_UNITS, 'write seconds, or a latency such as "5ms" or "80us"')


def read_bytes(value: float | str, setting: str = "bytes") -> int:
    """Read a number, "2MB" (10^6 each) or "2MiB" (2^20 each) as whole bytes.

    Raises:
        SettingError: it is below one byte, not finite, or not a size.
    """
    remedy = 'write bytes, or a size such as "500kB", "2MB" or "2MiB"'
    number = _quantity(setting, value, BYTE_UNITS, remedy)
    if number < 1:
        raise _out_of_range(setting, value, "is less than one byte", remedy)
    # 0.29 MB is 290000 bytes, not the 289999 that truncating the binary fraction gives
    return round(number)


def read_speedup(value: float | str, setting: str = "speedup") -> float:
    """Read 2 or "2x" as 2.0.

    Raises:
        SettingError: it is below 1, not finite, or not a ratio.
    """
    remedy = 'write a ratio such as 2 or "2x"; leave it out to ask for none'
    text = value.strip().lower().removesuffix("x").removesuffix("×").strip() if isinstance(value, str) else value
    number = _plain(setting, text, value, remedy)
    if number < 1:
        raise _out_of_range(setting, value, "can't be below 1: a slower model is never returned", remedy)
    return number


def _plain(setting: str, text: float | str, value: object, remedy: str) -> float:
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise SettingError(f"{setting} is {value!r}, which is not a number", where=f"Budget.{setting}", remedy=remedy)
    if isinstance(text, str) and not re.fullmatch(rf"[+-]?(?:{_NUMBER})|[+-]?(?:nan|inf(?:inity)?)", text.lower()):
        raise SettingError(f"{setting} {value!r} can't be read", where=f"Budget.{setting}", remedy=remedy)
    try:
        number = float(text)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _out_of_range(setting, value, "must be a finite number", remedy)
    return number


def _quantity(
    setting: str, value: float | str, units: Mapping[str, Decimal], remedy: str, *, many: bool = False
) -> float:
    """Read a number of base units, or numbers each with its unit (`many`: "2h30min", larger units first)."""
    if not isinstance(value, str) or re.fullmatch(r"[+-]?[0-9.e+-]+|[+-]?(nan|inf|infinity)", value.strip().lower()):
        number = _plain(setting, value.strip() if isinstance(value, str) else value, value, remedy)
    else:
        text = value.strip().lower()
        names = "|".join(sorted(map(re.escape, units), key=len, reverse=True))
        sign = -1.0 if text.startswith("-") else 1.0
        pieces = re.findall(rf"({_NUMBER})\s*({names})(?![a-z])\s*", text.lstrip("+-"))
        matched = re.fullmatch(rf"[+-]?(?:(?:{_NUMBER})\s*(?:{names})(?![a-z])\s*)+", text)
        scales = [units[unit] for _, unit in pieces]
        if not matched or (len(pieces) > 1 and not many) or sorted(set(scales), reverse=True) != scales:
            raise SettingError(f"{setting} {value!r} can't be read", where=f"Budget.{setting}", remedy=remedy)
        number = sign * sum(_scaled(digits, units[unit]) for digits, unit in pieces)
        if not math.isfinite(number):
            raise _out_of_range(setting, value, "must be a finite number", remedy)
    if number <= 0:
        raise _out_of_range(setting, value, "must be more than 0", remedy)
    return number


def _scaled(digits: str, unit: Decimal) -> float:
    number = float(digits)
    # beyond what a float holds, the product is not needed and Decimal would raise
    return float(Decimal(digits) * unit) if number and math.isfinite(number) else number


def _out_of_range(setting: str, value: object, why: str, remedy: str) -> SettingError:
    return SettingError(f"{setting} is {value!r}, which {why}", where=f"Budget.{setting}", remedy=remedy)


def _percent(fraction: float) -> str:
    text = f"{fraction * 100:.12g}%"
    return repr(text) if read_fraction("max_drop", text) == fraction else repr(fraction)


def _written(value: float, units: Mapping[str, Decimal], names: tuple[str, ...], read: Callable[[str], float]) -> str:
    """Write a value in the largest unit that reads back as the very same value with few digits."""
    for name in reversed(names):
        text = f"{float(Decimal(value) / units[name.lower()]):.6g}{name}"
        if float(Decimal(value) / units[name.lower()]) >= 1 and read(text) == value:
            return repr(text)
    return repr(f"{value!r}{names[0] if isinstance(value, int) else 's'}")

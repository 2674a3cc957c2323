"""What counts as a whole number and as a number among settings, which are written as JSON: True and NaN are neither."""

from __future__ import annotations

import math

from leanly.errors import SettingError


def is_whole(value: object, least: int) -> bool:
    """Say whether a value is a whole number that is not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Say whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_whole(value: object, least: int, *, name: str, where: str) -> None:
    """Raise a SettingError where a setting is no whole number, or below `least`."""
    if not is_whole(value, least):
        raise SettingError(f"{name} is {value!r}", where=where, remedy=f"give a whole number, {least} or more")

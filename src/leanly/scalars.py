"""What counts as a number, a flag or names among settings, which are written as JSON: True and NaN are no numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from leanly.errors import SettingError


def is_whole(value: object, least: int) -> bool:
    """Say whether a value is a whole number that is not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Say whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def rounded_down(value: float) -> str:
    """Write a positive number in three digits, none of them larger than it is."""
    place = 10.0 ** (math.floor(math.log10(value)) - 2)
    return f"{math.floor(value / place * (1 + 1e-12)) * place:.3g}"


def check_whole(value: object, least: int, *, name: str, where: str) -> None:
    """Raise a SettingError where a setting is no whole number, or below `least`."""
    if not is_whole(value, least):
        raise SettingError(f"{name} is {value!r}", where=where, remedy=f"give an int, {least} or more")


def check_flag(value: object, *, name: str, where: str) -> None:
    """Raise a SettingError where a setting is neither True nor False."""
    if not isinstance(value, bool):
        raise SettingError(f"{name} is {value!r}", where=where, remedy="give True or False")


def names_of(value: object, *, name: str, where: str) -> tuple[str, ...]:
    """Return the names that a setting gives; raise a SettingError where it is something else, as one name alone."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        remedy = f"give a tuple of names: ({value!r},)" if isinstance(value, str) else "give a tuple of names"
        raise SettingError(f"{name} is {value!r}", where=where, remedy=remedy)
    return tuple(value)

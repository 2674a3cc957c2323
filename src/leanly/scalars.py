"""What counts as a whole number and as a number among settings, which are written as JSON: True and NaN are neither."""

from __future__ import annotations

import math


def is_whole(value: object, least: int) -> bool:
    """Say whether a value is a whole number that is not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> bool:
    """Say whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""What counts as a whole number and as a number among settings: True and NaN are neither."""

from __future__ import annotations

import math
from numbers import Integral, Real


def is_whole(value: object, least: int) -> bool:
    """Say whether a value is a whole number that is not below `least`."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def is_number(value: object) -> bool:
    """Say whether a value is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)

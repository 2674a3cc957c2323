"""Names that a mistyped one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_SHOWN = 40


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return a remedy for an unknown name: the nearest known ones, and all of them where they are few."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
    more = f" and {len(known) - MOST_SHOWN} more" if len(known) > MOST_SHOWN else ""
    shown = f"{', '.join(known[:MOST_SHOWN])}{more}"
    if near:
        return f"did you mean {' or '.join(map(repr, near))}? All names: {shown}"
    return f"use one of: {shown}"

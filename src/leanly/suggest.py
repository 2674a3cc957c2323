"""Names that a mistyped one may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return a remedy for an unknown name: the nearest known ones, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(map(repr, near))}? All names: {', '.join(known)}"
    return f"use one of: {', '.join(known)}"

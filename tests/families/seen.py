"""A trial of numbers, as a family sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from leanly.families.candidate import Candidate


@dataclass
class Trial:
    """What a family sees of a trial."""

    candidate: Candidate
    medians: Mapping[int, float] = field(default_factory=dict)
    outcome: str = ""
    drop: float | None = None
    seconds: float = 0.0
    bytes: int | None = None

"""Trial: what came of a candidate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from leanly.artifact import Artifact
from leanly.families.candidate import Candidate
from leanly.measurement.records import Interval, Latency, Measurement, Verdict
from leanly.recipe import Recipe

State = Literal["measured", "dropped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One candidate, made and measured, or why not.

    Args:
        number: its place in the run; 0 is the reference, the float32 model in eager PyTorch.
        candidate: what was tried.
        state: "measured"; "dropped" (no better than another, outside the budget, or not tried); "failed" (an error).
        reason: why it was dropped or failed.
        artifact: the lowered files.
        measurement: what was measured on `validation`, with the short timing of the search.
        verdict: the judge's word on `validation`.
        ratio: by batch size, its latency over that of the fastest float artifact then known, timed in turns.
        steady: seconds a call by batch size, as if timed when the reference was: its ratio times what that artifact
            takes then. The machine's pace changes within a run; this does not.
        final: fresh and longer timings from the end of the run, in turns with the other finalists.
        proof: predictions and metric on `test`.
        certified: the judge's word on `test`.
        seconds: what making and measuring it took.
    """

    number: int
    candidate: Candidate
    state: State
    reason: str = ""
    artifact: Artifact | None = None
    measurement: Measurement | None = None
    verdict: Verdict | None = None
    ratio: dict[int, Interval] = field(default_factory=dict)
    steady: dict[int, float] = field(default_factory=dict)
    final: dict[int, Latency] = field(default_factory=dict)
    proof: Measurement | None = None
    certified: Verdict | None = None
    seconds: float = 0.0

    def __repr__(self) -> str:
        return f"Trial({self.number}, {self.label!r}, {self.state}{f': {self.reason}' if self.reason else ''})"

    @property
    def label(self) -> str:
        """How people read it."""
        return self.candidate.label

    @property
    def recipe(self) -> Recipe:
        """The passes it was made by."""
        return self.candidate.recipe

    @property
    def runtime(self) -> str:
        """The runtime it runs in."""
        return self.candidate.runtime

    @property
    def precision(self) -> str:
        """The precision it was asked for."""
        return self.candidate.precision

    @property
    def latency(self) -> dict[int, Latency]:
        """The best timings there are: those of the end of the run, else those of the search."""
        if self.final:
            return self.final
        return self.measurement.latency if self.measurement else {}

    @property
    def metric(self) -> float | None:
        """The metric on `validation`."""
        return self.measurement.metric if self.measurement else None

    @property
    def medians(self) -> dict[int, float]:
        """Seconds a call by batch size, to be compared with those of other trials; empty where it was not measured."""
        if self.steady and not self.final:
            return self.steady
        return {size: latency.median for size, latency in self.latency.items()}

    @property
    def outcome(self) -> str:
        """The verdict on `validation` in a word, "" where there is none."""
        return self.verdict.outcome if self.verdict else ""

    @property
    def drop(self) -> float | None:
        """By how much the metric fell on `validation`."""
        return self.verdict.drop.value if self.verdict and self.verdict.drop else None

    @property
    def bytes(self) -> int | None:
        """What the runtime reads of its artifact; None where it was not measured."""
        return self.measurement.artifact_bytes if self.measurement else None

    def replace(self, **changes: Any) -> Trial:
        """Return a copy with other fields."""
        return dataclasses.replace(self, **changes)

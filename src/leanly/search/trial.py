"""Candidate: something to try. Trial: what came of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from leanly.artifact import Artifact
from leanly.files import digest
from leanly.measurement.records import Interval, Latency, Measurement, Verdict
from leanly.recipe import Recipe

State = Literal["measured", "dropped", "failed"]


@dataclass(frozen=True)
class Candidate:
    """A recipe for one runtime at one precision.

    Args:
        label: how people read it: "int8 mse, openvino".
        recipe: the passes; empty is the unmodified model.
        runtime: "onnxruntime", "openvino" or "torch".
        precision: "float32", "bfloat16" or "int8".
        rest: the precision of what is not integer in an int8 artifact.
        prior: seconds that making and measuring it takes at least, where that is known beforehand.
    """

    label: str
    recipe: Recipe
    runtime: str
    precision: str
    rest: str = "float32"
    prior: float = 0.0

    @property
    def key(self) -> str:
        """What makes it this candidate and no other, as a hash."""
        return digest([self.recipe.to_json(), self.runtime, self.precision, self.rest])

    @property
    def unmodified(self) -> bool:
        """Whether it is the model as it came, run elsewhere or in another float format."""
        return not self.recipe.passes

    @property
    def kind(self) -> str:
        """The kind of step it is, for the forecast."""
        return f"{self.precision} {self.runtime}"


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
    final: dict[int, Latency] = field(default_factory=dict)
    proof: Measurement | None = None
    certified: Verdict | None = None
    seconds: float = 0.0

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

    def replace(self, **changes: Any) -> Trial:
        """Return a copy with other fields."""
        return dataclasses.replace(self, **changes)

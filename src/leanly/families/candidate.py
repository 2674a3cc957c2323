"""Candidate: something to try, and what a family may know of what was tried before."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from leanly.artifact import Plan
from leanly.files import digest
from leanly.quantize import Binary, Equalize, Mixed, Smooth, Static, WeightsOnly
from leanly.recipe import Pass, Recipe
from leanly.target import Target

INTEGER_RUNTIMES = ("onnxruntime", "openvino")
QUANTIZING = (Static, Mixed, WeightsOnly, Binary)
"""Passes that put quantizers into a network; others make it ready, or make good what was lost."""
PLAN = "plan"
"""The kind of step that only runs files otherwise that are there."""


@dataclass(frozen=True)
class Candidate:
    """A recipe for one runtime at one precision.

    Args:
        label: how people read it: "int8 mse, openvino".
        recipe: the passes; empty is the unmodified model.
        runtime: "onnxruntime", "openvino" or "torch".
        precision: "float32", "bfloat16" or "int8".
        rest: the precision of what is not integer in an int8 artifact.
        eager: as a plain PyTorch module, not compiled.
        plans: how batch sizes are run, where not in the runtime's own way.
        prior: seconds that making and measuring it takes at least, where that is known beforehand.
        network: how people read the smaller network that it is made of; empty for the whole one.
        training: seconds that the training in its recipe takes, on top of making and measuring the outcome.
    """

    label: str
    recipe: Recipe
    runtime: str
    precision: str
    rest: str = "float32"
    eager: bool = False
    plans: dict[int, Plan] = field(default_factory=dict)
    prior: float = 0.0
    network: str = ""
    training: float = 0.0

    @property
    def key(self) -> str:
        """What makes it this candidate and no other, as a hash."""
        plans = {str(size): dataclasses.asdict(plan) for size, plan in self.plans.items()}
        return digest([self.files_key, plans])

    @property
    def files_key(self) -> str:
        """What makes its files these and no others: everything but the way they are run."""
        return digest([self.recipe.to_json(), self.runtime, self.precision, self.rest, self.eager])

    @property
    def unmodified(self) -> bool:
        """Whether it is the model as it came, run elsewhere or in another float format."""
        return not self.recipe.passes

    @property
    def kind(self) -> str:
        """The kind of step that making it is, for the forecast."""
        if self.plans:
            return PLAN
        return f"{self.precision} {self.runtime}{' eager' if self.eager else ''}{' trained' if self.training else ''}"


class Seen(Protocol):
    """What a family sees of a trial."""

    @property
    def candidate(self) -> Candidate:
        """What was tried."""
        ...

    @property
    def medians(self) -> Mapping[int, float]:
        """Seconds a call by batch size; empty where it was not measured."""
        ...

    @property
    def seconds(self) -> float:
        """What making and measuring it took."""
        ...

    @property
    def outcome(self) -> str:
        """The verdict on validation: "pass", "fail", "undecided", or "" where there is none."""
        ...

    @property
    def drop(self) -> float | None:
        """By how much the metric fell on validation."""
        ...

    @property
    def bytes(self) -> int | None:
        """What the runtime reads; None where it was not measured."""
        ...


def mean_latency(seen: Seen) -> float:
    """Return the geometric mean of the medians over the batch sizes."""
    return math.exp(sum(math.log(value) for value in seen.medians.values()) / len(seen.medians))


def integer_runtimes(target: Target) -> tuple[str, ...]:
    """Return the runtimes of a target that have integer kernels, in leanly's order."""
    return tuple(runtime for runtime in INTEGER_RUNTIMES if runtime in target.allowed())


def labelled(name: str, *details: str) -> str:
    """Add details to a name, in brackets behind it."""
    start, bracket, rest = name.partition(" (")
    return f"{start} ({', '.join([*([rest[:-1]] if bracket else []), *details])})"


def static_of(candidate: Candidate) -> Static:
    """Return the pass that makes a candidate integer."""
    return next(step for step in candidate.recipe.passes if isinstance(step, Static))


def parts(recipe: Recipe) -> tuple[tuple[Pass, ...], tuple[Pass, ...]]:
    """Return the passes that make a network, and those from the first on that quantize it or make it ready for that."""
    passes = recipe.passes
    first = (Equalize, Smooth, *QUANTIZING)
    place = next((place for place, step in enumerate(passes) if isinstance(step, first)), len(passes))
    return passes[:place], passes[place:]


def float_forms(runtimes: Iterable[str], target: Target) -> list[tuple[str, str]]:
    """Return the runtimes and precisions that compute without integers; bfloat16 where the machine multiplies in it."""
    forms = [(runtime, "float32") for runtime in runtimes]
    if ("openvino", "float32") in forms and target.bf16:
        forms.append(("openvino", "bfloat16"))
    return forms

"""What each layer of a bundle's network loses where it alone is quantized, as the bundle's recipe does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leanly.artifact import Artifact
    from leanly.graph import Graph
    from leanly.recipe import Recipe
    from leanly.task import Task

ROWS = 512
"""Validation rows on which one quantized layer at a time is scored."""


@dataclass(frozen=True)
class Losses:
    """What layers lose, each quantized alone.

    Args:
        told: which quantization that is, in words; why there is none where no layer is known.
        bits: of each layer's weights and input: "W4A8".
        errors: as a share of the energy of the layer's output.
        drops: of the metric.
    """

    told: str
    bits: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    drops: Mapping[str, float] = field(default_factory=dict)


def find_losses(graph: Graph, artifact: Artifact, recipe: Recipe, task: Task) -> Losses:
    """Quantize the network as the recipe does, or to 8 bits where it does not, and see what each layer loses.

    Args:
        graph: the network that is quantized, in float.
        artifact: which is told of.
        recipe: that the artifact was made by, the passes that made the network included.
        task: gives the rows and the metric.
    """
    from rich.progress import Progress

    from leanly.families.candidate import QUANTIZING, parts
    from leanly.families.sensitivity import layer_bits, layer_errors, metric_drops, only_quantized
    from leanly.quantize import Binary, Static
    from leanly.quantize.calibration import calibration_batches
    from leanly.quantize.placement import KERNELS
    from leanly.recipe import Recipe

    _, passes = parts(recipe)
    place = next((place for place, step in enumerate(passes) if isinstance(step, QUANTIZING)), None)
    if place is None:
        told = "by Static to see what 8 bits would lose: the bundle of this "
        told += f"{artifact.precision} artifact holds no recipe that quantizes"
        passes = (Static(kernels=artifact.runtime if artifact.runtime in KERNELS else ""),)
    elif isinstance(passes[place], Binary):
        return Losses("layers of one bit are of use only together, after the training that followed")
    else:
        passes, later = passes[: place + 1], passes[place + 1 :]
        told = f"by {_named(passes)} of the artifact's recipe"
        told += f", without what {_named(later)} mended afterwards" if later else ""
    quantized = Recipe(passes)(graph, task)
    exact = only_quantized(quantized, "")
    errors = layer_errors(exact, quantized, next(iter(calibration_batches(graph, task, 16))))
    with Progress(transient=True) as progress:
        drops = progress.track(
            metric_drops(quantized, list(errors), task, ROWS),
            total=len(errors),
            description="one layer quantized at a time",
        )
        return Losses(told, layer_bits(quantized), errors, dict(zip(errors, drops, strict=True)))


def _named(passes: tuple[object, ...]) -> str:
    return ", ".join(type(step).__name__ for step in passes)

"""Making: a candidate's recipe applied to the graph and lowered, and what was made before used again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from leanly.artifact import DESCRIPTION, Artifact, Plan
from leanly.families.candidate import INTEGER_RUNTIMES, Candidate, parts
from leanly.families.keeping import Kept
from leanly.files import replacing_folder
from leanly.graph import Graph
from leanly.lowering import lower
from leanly.recipe import Recipe
from leanly.target import Target

if TYPE_CHECKING:
    from leanly.task import Task


class Maker:
    """Makes graphs and artifacts of one captured model.

    Args:
        graph: the captured model, in eval mode.
        task: gives the data.
        target: what artifacts are made for.
        graphs: folder in which graphs that took long to train are kept; None keeps none.
    """

    def __init__(self, graph: Graph, task: Task, target: Target, graphs: Path | None) -> None:
        self.graph, self._task, self._target = graph, task, target
        self._kept = Kept(graphs)
        self._made: dict[str, Artifact] = {}
        self._files: dict[str, Artifact] = {}

    def made(self, candidate: Candidate) -> Artifact | None:
        """Return the artifact with a candidate's files, None where it was not made."""
        return self._made.get(candidate.files_key)

    def build(self, candidate: Candidate, to: Path) -> Artifact:
        """Apply the recipe and lower the outcome into a folder.

        Raises:
            LeanlyError: a pass or the lowering fails.
        """
        before = self._made.get(candidate.files_key)
        if before is not None and candidate.plans:
            return _run_otherwise(before, candidate.plans, to)
        if candidate.network:
            # what a report, a bundle and a resumed run open again: the network in float, before it is quantized
            passes, _ = parts(candidate.recipe)
            self._kept.put(passes, self.outcome(Recipe(passes)), on_disk=True)
        artifact = lower(
            self.outcome(candidate.recipe),
            runtime=candidate.runtime,
            to=to,
            precision=candidate.precision,
            rest=candidate.rest,
            plans=candidate.plans or self._usual_plans(candidate),
            eager=candidate.eager,
            exported=self._exported(candidate),
        )
        self._made[candidate.files_key] = artifact
        if candidate.runtime in INTEGER_RUNTIMES:
            self._files[repr(candidate.recipe.to_json())] = artifact
        return artifact

    def lowered(self, graph: Graph, candidate: Candidate, to: Path) -> Artifact:
        """Lower another graph as a candidate's outcome would be, into a folder."""
        return lower(
            graph,
            runtime=candidate.runtime,
            to=to,
            precision=candidate.precision,
            rest=candidate.rest,
            plans=self._usual_plans(candidate),
        )

    def _usual_plans(self, candidate: Candidate) -> dict[int, Plan]:
        """OpenVINO compiles for each batch size of the target: a shape that is known is never slower there."""
        if candidate.runtime != "openvino":
            return {}
        return {size: Plan(threads=self._target.threads, static=True) for size in self._target.batch_sizes}

    def _exported(self, candidate: Candidate) -> Artifact | None:
        """An ONNX file of the same recipe, made for another runtime or precision."""
        if candidate.runtime not in INTEGER_RUNTIMES:
            return None
        made = self._files.get(repr(candidate.recipe.to_json()))
        return made if made is not None and made.model.exists() else None

    def outcome(self, recipe: Recipe) -> Graph:
        """Apply a recipe; the last few outcomes are kept, since two runtimes share them."""
        if not recipe.passes:
            return self.graph
        graph = self._kept.get(recipe.passes)
        if graph is None:
            *before, last = recipe.passes
            graph = last(self.outcome(Recipe(tuple(before))), self._task, self._target)
            self._kept.put(recipe.passes, graph)
        return graph


def _run_otherwise(artifact: Artifact, plans: dict[int, Plan], to: Path) -> Artifact:
    """Copy an artifact's files and say that they are run by other plans."""
    with replacing_folder(to, DESCRIPTION, "an artifact") as folder:
        for name in artifact.files:
            source = artifact.folder / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copyfile(source, folder / name)
        replace(artifact.with_plans(plans), folder=folder).save()
    return replace(artifact.with_plans(plans), folder=to)

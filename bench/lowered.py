"""What leanly makes of a recipe: lowered for each runtime, scored on validation, kept by recipe and code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

import leanly
from bench.contest import Ground, validation_metric
from bench.entrants import BATCHES, THREADS, Entrant
from bench.models.subjects import Rows
from bench.ours import FAMILY, inputs_of
from bench.peers import work
from bench.rows import code_version
from leanly.artifact import Artifact, Plan
from leanly.files import digest
from leanly.graph import Graph
from leanly.recipe import Recipe
from leanly.target import Target

TARGET = Target("cpu", threads=THREADS, batch_sizes=BATCHES)


@dataclass(frozen=True)
class Bench:
    """A subject, its captured network and the rows that calibrate."""

    ground: Ground
    graph: Graph
    task: leanly.Task
    last: dict[str, Graph] = field(default_factory=dict, init=False, compare=False)
    """The last outcome, which is lowered several times."""

    def outcome(self, recipe: Recipe) -> Graph:
        """Return what a recipe makes of the network."""
        key = digest(recipe.to_json())
        if key not in self.last:
            self.last.clear()
            self.last[key] = recipe(self.graph, self.task, TARGET)
        return self.last[key]


def open_bench(ground: Ground, data_dir: Path, rows: Rows, loss: str = "mse") -> Bench:
    """Capture a subject's network.

    Args:
        ground: the subject and its rows.
        data_dir: where its weights are.
        rows: what calibrates; labels are used by what reads a loss alone.
        loss: of the outputs against the labels.
    """
    torch.set_num_threads(THREADS)
    model = ground.subject.model(data_dir)
    task = leanly.Task(
        model,
        example=tuple(array[:2] for array in rows.inputs),
        train=(inputs_of(rows), rows.targets),
        metric=_unused,
        loss=loss,
    )
    return Bench(ground, leanly.capture(model, example=task.example).eval(), task)


def _unused(outputs: object, targets: object) -> float:
    return 0.0


def lowered(bench: Bench, recipe: Recipe, runtime: str, precision: str, rest: str = "float32") -> Entrant:
    """Apply a recipe and lower the outcome; files that are there for this code are used again."""
    settings = {"runtime": runtime, "precision": precision, "rest": rest}
    key = digest({"recipe": recipe.to_json(), **settings, "code": code_version()})
    folder = work(bench.ground.subject) / "recipes" / key[:16]
    if not (folder / "artifact.json").exists():
        leanly.lower(bench.outcome(recipe), runtime=runtime, to=folder, precision=precision, rest=rest)
    plans = {size: Plan(threads=THREADS, static=runtime == "openvino") for size in BATCHES}
    names = "+".join(str(step["pass"]).partition(".")[2] for step in recipe.to_json()) or "float32"
    ran = f"{runtime}, the rest {rest}" if rest != "float32" else runtime
    return Entrant(FAMILY, f"{names}, {ran}", Artifact.open(folder).with_plans(plans), key)


def score(bench: Bench, entrant: Entrant) -> float:
    """Return the metric on validation; below every other where the runtime refuses."""
    found = validation_metric(bench.ground, entrant)
    return float("-inf") if found is None else found

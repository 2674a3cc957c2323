"""How smaller networks are taught: with which augmentation, and how long an epoch takes, measured on a few steps."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from leanly.distill import Distill
from leanly.graph import Graph
from leanly.graph.modes import training_as
from leanly.target import Target
from leanly.task import Task
from leanly.training import Settings
from leanly.training.augmentation import AUGMENTATIONS, augmented, image_inputs
from leanly.training.evaluation import evaluate, evaluate_first
from leanly.training.loop import training_rows
from leanly.training.optimizers import default_rate
from leanly.training.padding import find_padding
from leanly.training.precision import chosen_dtype, deterministic, placed, run, takes_channels_last
from leanly.training.rows import Rows, TrainBatch
from leanly.training.schedules import SCHEDULES
from leanly.training.stepping import Stepper

LOOKED_AT = 512
"""Validation rows that tell which augmentations the teacher does not mind."""

HARMLESS = 0.03
"""Share of the metric that an augmentation may cost the teacher; mirrored digits cost far more."""

PROBED = 0.05
"""Share of the time for teaching that a short try may take."""
LEAST_ROWS, MOST_ROWS = 512, 4096
"""Rows of a try."""

STEPS = 3
OVERHEAD = 1.3
"""An epoch over its steps: hidden values are compared, and validation is scored."""


class Teaching:
    """How networks are taught in one run, found out once: it takes some steps through the network.

    Args:
        graph: the captured model, which teaches.
        task: gives the rows.
        target: what the machine is good at.
    """

    def __init__(self, graph: Graph, task: Task, target: Target) -> None:
        self._graph, self._task, self._target = graph, task, target

    @functools.cached_property
    def settings(self) -> Settings:
        """How a network is trained here."""
        return settings_for(self._graph, self._task)

    @property
    def alpha(self) -> float:
        """The teacher's share, as `Distill` takes it: all of it where rows have no labels."""
        return Distill.alpha if training_rows(self._task).labelled else 1.0

    @functools.cached_property
    def whole_seconds(self) -> float:
        """What an epoch of the whole network in float takes, taught by itself."""
        return self.epoch_seconds(self._graph, hidden=False)

    @functools.cached_property
    def whole_metric(self) -> float:
        """The metric of the whole network on validation."""
        return self._metric_of(self._graph)

    def _metric_of(self, graph: Graph) -> float:
        split = self._task.split("validation")
        assert split is not None
        padding = find_padding((graph, self._graph), training_rows(self._task))
        return evaluate(padding.free(graph) if padding else graph, self._task, split, padding)

    def probe(self, student: Graph, seconds: float, epoch_seconds: float, features: float) -> tuple[float, float]:
        """Teach a student on some rows and return the epochs that these are, and the drop that is left on validation.

        Args:
            student: a smaller network.
            seconds: that teaching may take in all; a small share of them is spent.
            epoch_seconds: what an epoch takes.
            features: as `Distill` takes them.
        """
        split = training_rows(self._task)
        rows = int(PROBED * seconds / epoch_seconds * len(split))
        rows = min(max(rows, LEAST_ROWS), MOST_ROWS, len(split))
        # scored once: the start, and the teacher, take as long each as the try itself
        blind = replace(self._task, validation=None, test=None)
        teach = Distill(self._graph, epochs=1, rows=rows, alpha=self.alpha, features=features, settings=self.settings)
        return rows / len(split), self.whole_metric - self._metric_of(teach(student, blind, self._target))

    def lesson(self, features: float, epochs: float, before: Sequence[float]) -> Distill:
        """Return the pass of one round of teaching: its learning rate starts where one schedule of all rounds would be.

        Args:
            features: as `Distill` takes them.
            epochs: of this round.
            before: epochs of the rounds before it.
        """
        settings = self.settings
        if before:
            done = sum(before) / (sum(before) + epochs)
            rate = default_rate(self._graph, settings.optimizer) * SCHEDULES[settings.schedule](done)
            settings = replace(settings, seed=settings.seed + len(before), learning_rate=rate)
        whole = math.ceil(epochs)
        rows = None if epochs == whole else round(len(training_rows(self._task)) * epochs / whole)
        return Distill(epochs=whole, rows=rows, alpha=self.alpha, features=features, settings=settings)

    def epoch_seconds(self, student: Graph, *, hidden: bool) -> float:
        """Return what an epoch of a student takes, with its hidden values compared or not."""
        return epoch_seconds(student, self._graph, self._task, self.settings, self._target, hidden=hidden)


def settings_for(graph: Graph, task: Task, batch_size: int = 64) -> Settings:
    """Choose the augmentations under which the trained network stays right: they will not mislead a smaller one."""
    positions, split = image_inputs(graph), task.split("validation")
    if not positions or split is None:
        return Settings(batch_size=batch_size)
    plain = _metric(graph, task, ())
    harmless = tuple(name for name in AUGMENTATIONS if _metric(graph, task, (name,)) >= plain - HARMLESS * abs(plain))
    return Settings(batch_size=batch_size, augment=harmless)


def epoch_seconds(
    graph: Graph, teacher: Graph, task: Task, settings: Settings, target: Target, *, hidden: bool
) -> float:
    """Return about how long an epoch of teaching takes: a few steps are taken on a clone and thrown away.

    The teacher runs along where rows are augmented or hidden values compared; else it runs once for all students.
    """
    split = training_rows(task)
    padding = find_padding((graph, teacher), split)
    if padding:
        graph, teacher = padding.free(graph.clone()), padding.free(teacher)
    rows = Rows(split, settings.batch_size, settings.seed, padding)
    clone = graph.clone()
    modes = training_as(clone.module, dropout=settings.dropout, keep_statistics=settings.keep_statistics)
    with deterministic(), modes:
        stepper = Stepper(clone.train(), _energy, settings, target)
        dtype = chosen_dtype(teacher, settings.precision, target)
        times = []
        for batch in rows.typical(STEPS):
            began = time.monotonic()
            stepper(batch, 0.0)
            if settings.augment or hidden:
                with torch.no_grad():
                    run(teacher, placed(batch.inputs, teacher.device, takes_channels_last(teacher)), dtype)
            times.append(time.monotonic() - began)
    return OVERHEAD * rows.steps * min(times)


def _energy(outputs: tuple[Tensor, ...], batch: TrainBatch) -> Tensor:
    """Return an objective whose steps take as long as those of any other, and that needs no labels."""
    del batch
    return torch.stack([output.float().square().mean() for output in outputs if output.requires_grad]).sum()


def _metric(graph: Graph, task: Task, operations: tuple[str, ...]) -> float:
    """Score the first validation rows, augmented."""
    images = image_inputs(graph)
    return evaluate_first(graph, task, LOOKED_AT, lambda inputs, number: augmented(inputs, images, operations, number))

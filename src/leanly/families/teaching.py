"""How smaller networks are taught: with which augmentation, and how long an epoch takes, measured on a few steps."""

from __future__ import annotations

import itertools
import time

import torch

from leanly.graph import Graph
from leanly.target import Target
from leanly.task import Task
from leanly.training import Settings
from leanly.training.augmentation import AUGMENTATIONS, augmented, image_inputs
from leanly.training.evaluation import evaluate_first
from leanly.training.loop import training_rows
from leanly.training.padding import find_padding
from leanly.training.precision import chosen_dtype, deterministic, placed, run, takes_channels_last
from leanly.training.rows import Rows
from leanly.training.stepping import Stepper
from leanly.training.supervised import supervised

LOOKED_AT = 512
"""Validation rows that tell which augmentations the teacher does not mind."""

HARMLESS = 0.03
"""Share of the metric that an augmentation may cost the teacher; mirrored digits cost far more."""

STEPS = 3
OVERHEAD = 1.3
"""An epoch over its steps: hidden values are compared, and validation is scored."""


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
    with deterministic():
        clone = graph.clone().train()
        stepper = Stepper(clone, supervised(clone, task), settings, target)
        dtype = chosen_dtype(teacher, settings.precision, target)
        times = []
        for batch in itertools.islice(rows.epoch(0), STEPS):
            began = time.monotonic()
            stepper(batch, 0.0)
            if settings.augment or hidden:
                with torch.no_grad():
                    run(teacher, placed(batch.inputs, teacher.device, takes_channels_last(teacher)), dtype)
            times.append(time.monotonic() - began)
    return OVERHEAD * rows.steps * min(times)


def _metric(graph: Graph, task: Task, operations: tuple[str, ...]) -> float:
    """Score the first validation rows, augmented."""
    images = image_inputs(graph)
    return evaluate_first(graph, task, LOOKED_AT, lambda inputs, number: augmented(inputs, images, operations, number))

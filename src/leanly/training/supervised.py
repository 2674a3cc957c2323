"""`train`: a network learns from the labels of its task."""

from __future__ import annotations

import functools
from hashlib import sha256
from pathlib import Path
from types import CodeType
from typing import Any

from torch import Tensor

from leanly.graph import Graph, capture, check_graph
from leanly.structure import build
from leanly.target import Target
from leanly.task import Task
from leanly.training.loop import fit, training_rows
from leanly.training.padding import find_padding
from leanly.training.progress import Listener
from leanly.training.rows import TrainBatch
from leanly.training.settings import Settings
from leanly.training.stepping import Objective


def train(
    task: Task,
    graph: Graph | None = None,
    *,
    epochs: int = 10,
    time: float | str | None = None,
    settings: Settings | None = None,
    target: Target | None = None,
    folder: str | Path | None = None,
    progress: Listener | None = None,
) -> Graph:
    """Train a network on the labels of its task, from the weights it has; the user's module is not changed.

    The same seed gives the same weights, with the same number of threads and without `time`. With validation rows the
    best state that they saw comes back, the start included; without them the last.

    Args:
        task: the model, training rows, and validation rows with the metric where it has them.
        graph: what is trained; by default the task's model.
        epochs: how often all training rows are seen, at most.
        time: seconds, "90s" or "10min" for everything; the schedule is fitted into it, also into less than an epoch.
        settings: how; see `leanly.training.Settings`.
        target: what the machine is good at; by default this one.
        folder: where checkpoints lie; a run that was killed goes on from them to the same weights.
        progress: is called with a `leanly.training.Progress` after each step and each evaluation.

    Raises:
        DataError: the task has no training rows, or they have no targets, or the loss does not fit them.
        SettingError: a setting out of its range.
        TrainingError: the loss is no number before anything was gained; batch and rows are named.
        RunError: the folder holds the checkpoint of another run.
    """
    split = training_rows(task)
    split.check_labelled("train", "or let a teacher teach: leanly.distill.Distill needs none")
    graph = graph if graph is not None else original(task)
    check_graph(graph, "train")
    return fit(
        graph,
        task,
        supervised(graph, task),
        epochs=epochs,
        time=time,
        settings=settings,
        target=target,
        folder=folder,
        progress=progress,
        about={"loss": told_apart(task.loss)},
        padding=find_padding((graph,), split),
    )


def supervised(graph: Graph, task: Task) -> Objective:
    """Return the task's own loss against the labels, as an objective."""
    loss = task.loss_function

    def objective(outputs: tuple[Tensor, ...], batch: TrainBatch) -> Tensor:
        return loss(build(graph.returns, outputs), batch.targets)

    return objective


def original(task: Task) -> Graph:
    """Return the task's model as a graph."""
    return capture(task.model, example=task.example, dynamic=task.dynamic, static=tuple(task.static))


def told_apart(function: Any) -> str:
    """Return a text that differs where two losses do: their names, their code, what they are set to."""
    if isinstance(function, str):
        return function
    if isinstance(function, functools.partial):
        return f"{told_apart(function.func)}{function.args}{sorted(function.keywords.items())}"
    code = getattr(function, "__code__", None)
    if code is not None:
        bound = [cell.cell_contents for cell in function.__closure__ or ()]
        return f"{function.__qualname__} {sha256(_content(code)).hexdigest()[:16]} {list(filter(_is_plain, bound))}"
    settings = {name: value for name, value in getattr(function, "__dict__", {}).items() if _is_plain(value)}
    return f"{type(function).__qualname__} {settings}"


def _content(code: CodeType) -> bytes:
    inner = (_content(one) if isinstance(one, CodeType) else repr(one).encode() for one in code.co_consts)
    return b"|".join([code.co_code, repr(code.co_names).encode(), *inner])


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | None)

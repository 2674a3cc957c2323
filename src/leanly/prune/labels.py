"""The rows that criteria look at, and the loss on their labels for those that need slopes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leanly.data import Split
from leanly.errors import DataError
from leanly.graph import Graph
from leanly.graph.checking import check_graph, check_task
from leanly.structure import build
from leanly.task import Task

BATCH, ROWS = 32, 512
"""Rows in a batch, and rows in all, that a criterion reads."""


def rows_of(graph: Graph, task: Task | None, name: str) -> Split:
    """Return the rows that a criterion looks at; labels are not used.

    Raises:
        SettingError: something else than a graph or a task was given.
        DataError: there are no rows; the criterion is named.
    """
    check_graph(graph, f"importance {name!r}")
    return seen_rows(
        task,
        f"importance {name!r} needs rows, and there are none",
        where="Task" if task is not None else f"{name}(graph, task)",
        instead=", or use leanly.prune.magnitude",
    )


def seen_rows(task: Task | None, told: str, *, where: str, instead: str = "") -> Split:
    """Return the rows that a pass or a criterion looks at; labels are not used.

    Raises:
        DataError: there are none; says what was told, and what can be used instead.
    """
    check_task(task, where)
    split = task.seen_split() if task is not None else None
    if split is None:
        raise DataError(told, where=where, remedy=f"give the task train= or validation= (labels are not used){instead}")
    return split


def labelled(graph: Graph, task: Task | None, name: str) -> tuple[Task, Split]:
    """Return a task and the rows that a criterion learns from.

    Raises:
        SettingError: something else than a graph or a task was given.
        DataError: there are no rows; the criterion is named.
    """
    check_graph(graph, f"importance {name!r}")
    check_task(task, name)
    split = task.seen_split() if task is not None else None
    if task is None or split is None:
        raise DataError(
            f"importance {name!r} needs labelled data, and there is none",
            where="Task" if task is not None else f"{name}(graph, task)",
            remedy="give the task train= or validation= with labels, or use leanly.prune.magnitude, which needs none",
        )
    split.check_labelled(f"importance {name!r}", "or use leanly.prune.expected_gradient, which needs none")
    return task, split


def loss_of(graph: Graph, task: Task, split: Split, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Return the task's loss on flat outputs.

    Raises:
        DataError: it can't be computed, or it is no finite number with a gradient.
    """
    try:
        loss = task.loss_function(build(graph.returns, list(outputs)), targets.to(graph.device))
        usable = isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad and bool(torch.isfinite(loss))
    except DataError:
        raise
    except Exception as error:  # a loss of the user's own, on labels of the user's own, may raise anything
        raise DataError(
            f"the loss can't be computed ({error})",
            where=f"split {split.name!r}",
            remedy="give labels that fit Task.loss, or use leanly.prune.magnitude, which needs none",
        ) from error
    if not usable:
        several = isinstance(loss, Tensor) and loss.numel() != 1
        told = f"has the shape {tuple(loss.shape)}" if several else f"is {loss!r}"
        raise DataError(
            f"the loss {told}",
            where=f"split {split.name!r}",
            remedy="give a loss that returns one finite number with a gradient",
        )
    return loss

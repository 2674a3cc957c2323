"""Importance: how much each element of each parameter matters; all criteria are functions of one signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from leanly.data import Split
from leanly.errors import DataError, SettingError
from leanly.graph import Graph
from leanly.prune.skipping import skipping
from leanly.suggest import suggestion
from leanly.task import Task

Importance = Callable[[Graph, Task | None], dict[str, Tensor]]
"""`(graph, task) -> {parameter name: saliency}`, each saliency in the shape of its parameter, finite and not negative.

A pass adds up what a unit holds of each parameter, as a share of that parameter; parameters that a criterion leaves out
do not count.
"""
BATCH, ROWS = 32, 512
"""Rows in a batch, and rows in all, that a criterion reads."""


def magnitude(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return the square of every weight; biases and scales of norms do not count.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets".

    Args:
        graph: whose parameters are judged.
        task: not used; no data is needed.
    """
    return {name: weight.detach().square() for name, weight in graph.named_parameters() if weight.ndim > 1}


def gradient(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return |weight * gradient of the loss|, the change of the loss to first order, averaged over batches.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning".

    Args:
        graph: whose parameters are judged, in evaluation mode.
        task: its loss, and the first 512 rows of `train` (`validation` where there is no `train`).

    Raises:
        DataError: no task, no labelled data, or a loss that can't be computed on it.
    """
    task, split = _labelled(task, "gradient")
    graph = graph.clone().eval()
    weights = {name: weight.requires_grad_() for name, weight in graph.named_parameters()}
    total = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for batch in split.batches(BATCH, ROWS):
        loss = _loss(graph, task, split, batch.arguments, batch.targets)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for (name, weight), slope in zip(weights.items(), found, strict=True):
            if slope is not None:
                total[name] += (weight.detach() * slope).abs()
    return total


CRITERIA = {function.__name__: function for function in (magnitude, gradient, skipping)}
"""By the name under which recipes know them."""


def resolve_importance(importance: Any) -> Importance:
    """Return the criterion of a name, or a callable `(graph, task) -> {name: saliency}` as it is.

    Raises:
        SettingError: an unknown name, or something that can't be called.
    """
    if isinstance(importance, str):
        if importance not in CRITERIA:
            raise SettingError(
                f"there is no importance named {importance!r}",
                where="importance",
                remedy=suggestion(importance, CRITERIA),
            )
        return CRITERIA[importance]
    if not callable(importance):
        raise SettingError(
            f"importance is {importance!r}, which can't be called",
            where="importance",
            remedy=f"give one of {', '.join(f'leanly.prune.{name}' for name in CRITERIA)}, or a function "
            "(graph, task) -> {parameter name: tensor of its shape}",
        )
    return cast(Importance, importance)


def _labelled(task: Task | None, name: str) -> tuple[Task, Split]:
    split = task.seen_split() if task is not None else None
    if task is None or split is None:
        raise DataError(
            f"importance {name!r} needs labelled data, and there is none",
            where="Task" if task is not None else f"{name}(graph, task)",
            remedy="give the task train= or validation= with labels, or use leanly.prune.magnitude, which needs none",
        )
    return task, split


def _loss(graph: Graph, task: Task, split: Split, arguments: Any, targets: Tensor) -> Tensor:
    device = graph.device
    (args, kwargs), targets = tree_map_only(Tensor, lambda tensor: tensor.to(device), (arguments, targets))
    try:
        loss = task.loss_function(graph(*args, **kwargs), targets)
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
        raise DataError(
            f"the loss is {loss!r}",
            where=f"split {split.name!r}",
            remedy="give a loss that returns one finite number with a gradient",
        )
    return loss

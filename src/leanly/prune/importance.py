"""Importance: how much each element of each parameter matters; all criteria are functions of one signature."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from leanly.data import Split
from leanly.errors import DataError, SettingError
from leanly.graph import Graph
from leanly.graph.checking import check_task
from leanly.prune.drawing import Drawn, has_slope
from leanly.prune.labels import BATCH, ROWS, labelled, loss_of, rows_of
from leanly.prune.reading import read_rows
from leanly.prune.skipping import skipping
from leanly.prune.values import activation_entropy, fisher, second_order
from leanly.prune.weights import (
    batch_norm_scale,
    geometric_median,
    lamp,
    magnitude_l1,
    matrices,
    random,
    weight_entropy,
)
from leanly.suggest import suggestion
from leanly.task import Task

Importance = Callable[[Graph, Task | None], dict[str, Tensor]]
"""`(graph, task) -> {parameter name: saliency}`, each saliency in the shape of its parameter, finite and not negative.

A pass adds up what a unit holds of each parameter, as a share of that parameter, for criteria in `IN_LOSS` times what
the parameter scores in all; parameters that a criterion leaves out do not count.
"""


def magnitude(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return the square of every weight; biases and scales of norms do not count.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets".

    Args:
        graph: whose parameters are judged.
        task: not used; no data is needed.
    """
    return {name: weight.square() for name, weight in matrices(graph, "magnitude")}


def gradient(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return |weight * gradient of the loss|, the change of the loss to first order, the mean over rows, 32 at a time.

    Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning".

    Args:
        graph: whose parameters are judged, in evaluation mode.
        task: its loss, and the first 512 rows of `train` (`validation` where there is no `train`).

    Raises:
        DataError: no task, no labelled data, or a loss that can't be computed on it.
    """
    task, split = labelled(graph, task, "gradient")
    return _weight_times_slope(graph, split, functools.partial(loss_of, task=task, split=split))


def expected_gradient(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return |weight * gradient of the loss| on labels that are drawn as the network expects them: none are read.

    Slopes on such labels cancel out in the mean; their size is the root of the Fisher information (Kunstner et al.
    2019, "Limitations of the Empirical Fisher Approximation for Natural Gradient Descent"). It does not vanish where
    the network knows its training rows by heart, as `gradient` does (Molchanov et al. 2019).

    Args:
        graph: whose parameters are judged, in evaluation mode.
        task: the first 512 rows of `train` (`validation` where there is no `train`); its loss tells how labels are
            drawn: classes, yes or no, or the outputs themselves with noise.

    Raises:
        DataError: the task has no rows, or no output has a slope.
    """
    split = rows_of(graph, task, "expected_gradient")
    assert task is not None, "it has rows"
    return _weight_times_slope(graph, split, Drawn(task))


def usual(graph: Graph, task: Task | None) -> Importance:
    """Return the criterion for those who name none: `expected_gradient` where rows give slopes, else `magnitude`."""
    check_task(task, "Channels")
    split = task.seen_split() if task is not None else None
    return expected_gradient if split is not None and has_slope(graph, split) else magnitude


@torch.inference_mode(False)
@torch.enable_grad()
def _weight_times_slope(graph: Graph, split: Split, loss: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Return |weight * slope|, the mean over rows; `loss` takes the graph, its flat outputs and targets."""
    graph = graph.clone().eval()
    named = graph.named_parameters()
    weights = {name: weight.requires_grad_() for name, weight in named if weight.is_floating_point()}
    if not weights:
        return {}
    total = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    (running,), batches = read_rows([graph], split, BATCH, ROWS)
    for inputs, targets in batches:
        outputs = running.flat(*(tensor.to(graph.device) for tensor in inputs))
        value = loss(graph, outputs=outputs, targets=targets)
        found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        for (name, weight), slope in zip(weights.items(), found, strict=True):
            if slope is not None:
                total[name] += (weight.detach() * slope).abs() * len(targets)
    rows = sum(len(targets) for _, targets in batches)
    for name, summed in total.items():
        if not bool(summed.isfinite().all()):
            raise DataError(
                f"the slope of {name} is NaN or infinite on some rows",
                where=f"split {split.name!r}",
                remedy="mend the line that has no slope there (a root of 0), take such rows out, or use "
                "leanly.prune.magnitude, which needs none",
            )
    return {name: summed / rows for name, summed in total.items()}


IN_LOSS = (gradient, expected_gradient, fisher)
"""Criteria in units of the loss: what one layer scores can be compared with what another does."""
CRITERIA = {
    function.__name__: function
    for function in (
        magnitude,
        magnitude_l1,
        batch_norm_scale,
        geometric_median,
        weight_entropy,
        activation_entropy,
        gradient,
        expected_gradient,
        fisher,
        second_order,
        lamp,
        random,
        skipping,
    )
}
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
    if not _takes_two(importance):
        raise SettingError(
            f"importance is a {type(importance).__name__}, which can't be called with a graph and a task",
            where="importance",
            remedy=f"give one of {', '.join(f'leanly.prune.{name}' for name in CRITERIA)}, or a function "
            "(graph, task) -> {parameter name: tensor of its shape}",
        )
    return cast(Importance, importance)


def _takes_two(importance: Any) -> bool:
    try:
        inspect.signature(importance).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # something built in tells of no arguments
        return callable(importance)
    return True

"""The metric of a graph over a split, in float32 and evaluation mode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from leanly.data import Split
from leanly.errors import DataError
from leanly.graph import Graph
from leanly.structure import build
from leanly.task import Task
from leanly.training.padding import Padding
from leanly.training.precision import placed, takes_channels_last

ROWS = 128


def evaluate(graph: Graph, task: Task, split: Split, padding: Padding | None = None) -> float:
    """Return the task's metric of a graph over a whole split, without its padding if so asked; its mode is put back.

    Raises:
        DataError: the metric fails, or the outputs of different batches don't fit together.
    """
    return task.score(build(graph.returns, outputs_of(graph, split, padding)), split.targets)


def evaluate_first(
    graph: Graph, task: Task, rows: int, change: Callable[[list[Tensor], int], list[Tensor]] | None = None
) -> float:
    """Return the task's metric of a graph in evaluation mode over the first rows of `validation`.

    Args:
        graph: on the CPU.
        task: has validation rows.
        rows: how many at most.
        change: is given the inputs of each batch and its number, and returns what the graph is given.
    """
    split = task.split("validation")
    assert split is not None, "who asks looks first"
    split.arguments.check_order(graph.inputs, f"split {split.name!r}")
    parts, targets = [], []
    with torch.no_grad():
        for number, (inputs, labels) in enumerate(split.flat_batches(ROWS, rows)):
            parts.append(graph.flat(*(change(inputs, number) if change else inputs)))
            targets.append(labels.numpy())
    outputs = [torch.cat(part) for part in zip(*parts, strict=True)]
    return task.score(build(graph.returns, outputs), np.concatenate(targets))


def outputs_of(graph: Graph, split: Split, padding: Padding | None = None) -> list[Tensor]:
    """Return the outputs of all rows in order, on the CPU; what does not carry the batch comes once.

    Args:
        graph: takes any length where padding is left out.
        split: the rows.
        padding: what is left out of text.

    Raises:
        DataError: the outputs of different batches don't fit together.
    """
    split.arguments.check_order(graph.inputs, f"split {split.name!r}")
    training, channels_last = graph.training, takes_channels_last(graph)
    parts: list[list[Tensor]] = [[] for _ in graph.outputs]
    graph.eval()
    try:
        with torch.no_grad():
            for inputs, _ in split.flat_batches(ROWS):
                if padding:
                    inputs = padding.without(inputs)
                outputs = graph.flat(*placed(inputs, graph.device, channels_last))
                for part, output in zip(parts, outputs, strict=True):
                    part.append(output.cpu().contiguous())
    finally:
        graph.train(training)
    joined = []
    for spec, part in zip(graph.outputs, parts, strict=True):
        if not spec.shape or spec.shape[0] != "batch":
            joined.append(part[0])
            continue
        if len({output.shape[1:] for output in part}) > 1:
            raise DataError(
                f"output {spec.name} has other shapes in other batches",
                where=f"split {split.name!r}",
                remedy="pad all rows of the split to the same length",
            )
        joined.append(torch.cat(part))
    return joined

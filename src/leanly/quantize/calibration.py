"""Calibration: the values of a graph, seen while rows run through it, as streamed histograms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Interpreter

from leanly.errors import DataError
from leanly.graph import Graph
from leanly.graph.statistics import Histogram
from leanly.quantize.placement import KERNELS, place
from leanly.training.precision import placed, takes_channels_last

if TYPE_CHECKING:
    from leanly.data import Split
    from leanly.task import Task

BATCH = 16
MOST_REMEMBERED = 4

_remembered: WeakKeyDictionary[Split, dict[tuple[str, int], dict[str, Histogram]]] = WeakKeyDictionary()
"""By split, graph and rows: recipes that differ in the observer or in what stays float see the same values."""


def calibration_batches(task: Task | None, samples: int) -> Iterator[list[Tensor]]:
    """Yield flat input tensors of the first rows of the training data (validation where there is none).

    Raises:
        DataError: the task has neither.
    """
    left = samples
    for inputs, _ in _calibration_split(task).flat_batches(BATCH):
        yield [tensor[:left] for tensor in inputs]
        left -= BATCH
        if left <= 0:
            return


def calibrate(graph: Graph, values: Iterable[str], task: Task | None, samples: int) -> dict[str, Histogram]:
    """Return a histogram of each named value, as the calibration rows run through the graph.

    Args:
        graph: batch norm folded, attention expanded.
        values: names of the nodes to watch.
        task: gives the rows, the first of `train` (of `validation` where there is no `train`).
        samples: rows.

    Raises:
        DataError: no calibration data, or NaN or infinity in a value.
    """
    seen = _remembered.setdefault(_calibration_split(task), {})
    key = (graph.fingerprint(), samples)
    known = seen.pop(key, {})
    wanted = set(values)
    if not wanted <= known.keys():
        # what other runtimes quantize costs little to watch along, and they are tried next
        others = {
            name for kernels in KERNELS for name in place(graph.module.graph, kernels=kernels).activations.values()
        }
        known |= _watch(graph, (wanted | others) - known.keys(), calibration_batches(task, samples))
    seen[key] = known
    while len(seen) > MOST_REMEMBERED:
        del seen[next(iter(seen))]
    return {name: known[name] for name in wanted}


def _calibration_split(task: Task | None) -> Split:
    split = task.seen_split() if task is not None else None
    if split is None:
        raise DataError(
            "calibration needs data and the task has none",
            where="Static",
            remedy="give the task train= or validation= data; labels are not used",
        )
    return split


def _watch(graph: Graph, names: Iterable[str], batches: Iterator[list[Tensor]]) -> dict[str, Histogram]:
    histograms = {name: Histogram(name) for name in names}
    watch, channels_last = _Watch(graph.module, histograms), takes_channels_last(graph)
    with torch.no_grad():
        for batch, inputs in enumerate(batches):
            watch.batch = batch
            watch.run(*placed(inputs, graph.device, channels_last))
    return histograms


class _Watch(Interpreter):
    def __init__(self, module: torch.fx.GraphModule, histograms: dict[str, Histogram]) -> None:
        super().__init__(module)
        self.histograms = histograms
        self.batch = 0

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.histograms:
            self.histograms[n.name].update(value, self.batch)
        return value

"""Calibration: the values of a graph, seen while rows run through it, as streamed histograms."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Interpreter

from leanly.errors import DataError, LeanlyWarning
from leanly.graph import Graph
from leanly.graph.checking import check_task
from leanly.graph.rows import check_rows, checked_batches
from leanly.graph.statistics import Histogram
from leanly.quantize.placement import KERNELS, place
from leanly.training.precision import placed, takes_channels_last

if TYPE_CHECKING:
    from leanly.data import Split
    from leanly.task import Task

BATCH = 16
MOST_REMEMBERED = 4

FAR = 90.0
"""Times by which the ranges of calibration and validation rows may differ: a forgotten division by 255 is more."""

_remembered: WeakKeyDictionary[Split, dict[tuple[str, int, int], dict[str, Histogram]]] = WeakKeyDictionary()
"""By split, graph and rows: recipes that differ in the observer or in what stays float see the same values."""


def calibration_batches(graph: Graph, task: Task | None, samples: int, draw: int = 0) -> Iterator[list[Tensor]]:
    """Yield flat input tensors of rows of the training data (of validation where there is none).

    Args:
        graph: takes them.
        task: gives the rows.
        samples: how many at most.
        draw: 0 takes the first; any other number seeds which ones are drawn.

    Raises:
        DataError: the task has neither, the rows are not what the graph takes, or are to be drawn from a stream.
    """
    split = _calibration_split(task)
    if not draw:
        for inputs, _ in checked_batches(graph, split, BATCH, samples):
            yield inputs
        return
    split.arguments.check_order(graph.inputs, f"split {split.name!r}")
    for batch, (rows, inputs) in enumerate(_drawn(split, samples, draw)):
        check_rows(graph, inputs, f"split {split.name!r}, batch {batch}", rows)
        yield inputs


def _drawn(split: Split, samples: int, draw: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
    if not split.counted:
        raise DataError(
            "calibration rows can't be drawn from a stream",
            where=f"split {split.name!r}",
            remedy="draw=0 takes its first rows; or give arrays or a Dataset that knows its length",
        )
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(draw))[:samples]
    for picked in rows.split(BATCH):
        yield picked, split.take(picked)[0]


def calibrate(
    graph: Graph, values: Iterable[str], task: Task | None, samples: int, draw: int = 0
) -> dict[str, Histogram]:
    """Return a histogram of each named value, as the calibration rows run through the graph.

    Args:
        graph: batch norm folded, attention expanded.
        values: names of the nodes to watch.
        task: gives the rows.
        samples: how many.
        draw: which ones, see `calibration_batches`.

    Raises:
        DataError: no calibration data, rows of another shape, or NaN or infinity in a value.
    """
    seen = _remembered.setdefault(_calibration_split(task), {})
    if not seen:
        _compare_ranges(graph, task)
    key = (graph.fingerprint(), samples, draw)
    known = seen.pop(key, {})
    wanted = set(values)
    if not wanted <= known.keys():
        # what other runtimes quantize costs little to watch along, and they are tried next
        others = {
            name for kernels in KERNELS for name in place(graph.module.graph, kernels=kernels).activations.values()
        }
        known |= _watch(graph, (wanted | others) - known.keys(), calibration_batches(graph, task, samples, draw))
    seen[key] = known
    while len(seen) > MOST_REMEMBERED:
        del seen[next(iter(seen))]
    return {name: known[name] for name in wanted}


def _compare_ranges(graph: Graph, task: Task | None) -> None:
    """Warn where calibration rows are scaled otherwise than the rows that accuracy is measured on."""
    seen, validation = _calibration_split(task), task.split("validation") if task is not None else None
    first = next(seen.flat_batches(BATCH, BATCH))[0]
    for spec, tensor in zip(graph.inputs, first, strict=True):
        if tensor.is_floating_point() and tensor.numel() and not bool(tensor.any()):
            warnings.warn(
                f"Input {spec.name} is zero throughout in the first calibration rows (split {seen.name!r}): ranges "
                "seen there fit nothing else. What to do: look at how the rows are prepared.",
                LeanlyWarning,
                stacklevel=5,
            )
    if validation is None or validation is seen:
        return
    other = next(validation.flat_batches(BATCH, BATCH))[0]
    for spec, *tensors in zip(graph.inputs, first, other, strict=True):
        if not all(tensor.is_floating_point() and tensor.numel() for tensor in tensors):
            continue
        ours, theirs = (float(tensor.abs().max()) for tensor in tensors)
        if max(ours, theirs) >= FAR * min(ours, theirs) > 0:
            warnings.warn(
                f"Input {spec.name} reaches {ours:.3g} in the calibration rows (split {seen.name!r}) and {theirs:.3g} "
                "in split 'validation': one of them seems to be scaled otherwise. What to do: prepare both alike.",
                LeanlyWarning,
                stacklevel=5,
            )


def _calibration_split(task: Task | None) -> Split:
    check_task(task, "calibration")
    split = task.seen_split() if task is not None else None
    if split is None:
        raise DataError(
            f"calibration needs data and {'no task was given' if task is None else 'the task has none'}",
            where="calibration",
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

"""Calibration: the values of a graph, seen while rows run through it, as streamed histograms."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Interpreter

from leanly.errors import DataError
from leanly.graph import Graph
from leanly.graph.checking import check_task
from leanly.graph.rows import check_rows, checked_batches
from leanly.graph.statistics import Histogram
from leanly.quantize.input_ranges import InputRanges, warn_of_scale
from leanly.quantize.placement import KERNELS, place
from leanly.training.precision import placed, takes_channels_last

if TYPE_CHECKING:
    from leanly.data import Split
    from leanly.task import Task

BATCH = 16
MOST_REMEMBERED = 4


class _Seen(NamedTuple):
    """Values by their nodes, and the digest of the rows that gave them."""

    rows: bytes
    values: dict[str, Histogram]


_remembered: WeakKeyDictionary[Split, dict[tuple[str, int, int], _Seen]] = WeakKeyDictionary()
"""By split, graph and rows: recipes that differ in the observer or in what stays float see the same values."""


def calibration_batches(
    graph: Graph, task: Task | None, samples: int, draw: int = 0, size: int = BATCH
) -> Iterator[list[Tensor]]:
    """Yield flat input tensors of rows of the training data (of validation where there is none).

    Once all are read, it is warned of rows that are scaled otherwise than those of validation.

    Args:
        graph: takes them.
        task: gives the rows.
        samples: how many at most.
        draw: 0 takes the first; any other number seeds which ones are drawn.
        size: rows in a batch.

    Raises:
        DataError: the task has neither, the rows are not what the graph takes, or are to be drawn from a stream.
    """
    split = calibration_split(task)
    ranges = InputRanges(graph.inputs)
    for inputs in _rows(graph, split, samples, draw, size):
        ranges.see(inputs)
        yield inputs
    warn_of_scale(ranges, split, task.split("validation") if task is not None else None)


def _rows(graph: Graph, split: Split, samples: int, draw: int, size: int) -> Iterator[list[Tensor]]:
    if not draw:
        for inputs, _ in checked_batches(graph, split, size, samples):
            yield inputs
        return
    split.arguments.check_order(graph.inputs, f"split {split.name!r}")
    for batch, (rows, inputs) in enumerate(_drawn(split, samples, draw, size)):
        check_rows(graph, inputs, f"split {split.name!r}, batch {batch}", rows)
        yield inputs


def _drawn(split: Split, samples: int, draw: int, size: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
    if not split.counted:
        raise DataError(
            "calibration rows can't be drawn from a stream",
            where=f"split {split.name!r}",
            remedy="draw=0 takes its first rows; or give arrays or a Dataset that knows its length",
        )
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(draw))[:samples]
    for picked in rows.split(size):
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
    seen = _remembered.setdefault(calibration_split(task), {})
    key = (graph.fingerprint(), samples, draw)
    rows, known = seen.pop(key, _Seen(b"", {}))
    if known and rows != _digest(calibration_batches(graph, task, samples, draw)):
        known = {}  # the user's data changed meanwhile
    wanted = set(values)
    if not wanted <= known.keys():
        # what other runtimes quantize costs little to watch along, and they are tried next
        others = {
            name for kernels in KERNELS for name in place(graph.module.graph, kernels=kernels).activations.values()
        }
        digest = hashlib.blake2b()
        batches = _hashed(calibration_batches(graph, task, samples, draw), digest)
        known |= _watch(graph, (wanted | others) - known.keys(), batches)
        rows = digest.digest()
    seen[key] = _Seen(rows, known)
    while len(seen) > MOST_REMEMBERED:
        del seen[next(iter(seen))]
    return {name: known[name] for name in wanted}


def _hashed(batches: Iterable[list[Tensor]], digest: hashlib.blake2b) -> Iterator[list[Tensor]]:
    """Yield batches as they are, and put their shapes and bytes into a digest."""
    for inputs in batches:
        for tensor in inputs:
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        yield inputs


def _digest(batches: Iterable[list[Tensor]]) -> bytes:
    digest = hashlib.blake2b()
    for _ in _hashed(batches, digest):
        pass
    return digest.digest()


def calibration_split(task: Task | None) -> Split:
    """Return the rows that calibrate; labels are not used.

    Raises:
        DataError: there are none.
    """
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

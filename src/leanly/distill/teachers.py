"""What a teacher says: its outputs, kept for each row where rows stay the same."""

from __future__ import annotations

import time
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from leanly.data import Split
from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.graph.watching import Watched
from leanly.target import Target
from leanly.training.evaluation import ROWS, outputs_of
from leanly.training.padding import Padding
from leanly.training.precision import chosen_dtype, run
from leanly.training.rows import TrainBatch
from leanly.training.settings import Settings

LARGEST = 2**30
"""Bytes of outputs that are kept at most."""
SHARE = 0.25
"""Share of the time that filling the memory of outputs may take."""

_OUTPUTS: WeakKeyDictionary[Split, tuple[str, list[Tensor]]] = WeakKeyDictionary()


def matched(student: Graph, teacher: Graph) -> tuple[int, ...]:
    """Return for each output of the student the position of the teacher's: by name where both have the same names.

    Raises:
        SettingError: the two take other inputs or give other outputs.
    """
    names = [spec.name for spec in teacher.outputs]
    order = range(len(names))
    if sorted(names) == sorted(spec.name for spec in student.outputs):
        order = tuple(names.index(spec.name) for spec in student.outputs)
    for what, ours, theirs in (
        ("outputs", student.outputs, [teacher.outputs[position] for position in order]),
        ("inputs", student.inputs, teacher.inputs),
    ):
        told = [", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs) for specs in (ours, theirs)]
        if len(ours) != len(theirs) or not all(
            one.dtype == other.dtype and _fit(one.shape, other.shape) for one, other in zip(ours, theirs, strict=True)
        ):
            raise SettingError(
                f"student and teacher have other {what}: {told[0]} and {told[1]}",
                where="Distill.teacher",
                remedy=f"give a teacher with the student's {what}, or wrap one of them in a module that has them",
            )
    return tuple(order)


def _fit(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> bool:
    """Say whether two shapes can be the same; a dimension that varies may be any size."""
    return len(one) == len(other) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(one, other, strict=True)
    )


class Teacher:
    """Gives the outputs of a batch: looked up where they were kept, computed where rows are new each time.

    Args:
        graph: the teacher, on the student's device.
        split: the training rows.
        settings: whether rows are augmented, and the precision.
        epochs: how often the rows are seen.
        seconds: the time of the whole run; None sets no limit.
        target: what the machine is good at.
        hidden: names of nodes whose values are given behind the outputs; they are too many to be kept.
        padding: what is left out of the rows it is given.
    """

    def __init__(
        self,
        graph: Graph,
        split: Split,
        settings: Settings,
        epochs: int,
        seconds: float | None,
        target: Target | None,
        hidden: tuple[str, ...] = (),
        padding: Padding | None = None,
    ) -> None:
        self._graph = padding.free(graph) if padding else graph
        self._runs = Watched(self._graph, hidden) if hidden else self._graph
        self._dtype = chosen_dtype(graph, settings.precision, target)
        again = epochs > 1 and not (hidden or settings.augment) and split.counted and split.same_again()
        self._kept = _kept_outputs(self._graph, split, seconds, padding) if again and _fits(graph, len(split)) else None

    @property
    def keeps(self) -> bool:
        """Whether outputs were computed beforehand, once for each row."""
        return self._kept is not None

    def __call__(self, batch: TrainBatch) -> tuple[Tensor, ...]:
        """Return the flat outputs, without gradient."""
        if self._kept is not None and batch.rows is not None:
            return tuple(output[batch.rows].to(self._graph.device) for output in self._kept)
        with torch.no_grad():
            return run(self._runs, batch.inputs, self._dtype)


def _fits(graph: Graph, rows: int) -> bool:
    """Say whether all outputs carry the batch, have one shape, and are small enough to keep."""
    size = 0
    for spec, output in zip(graph.outputs, graph.clone().flat(*graph.example), strict=True):
        if not spec.shape or spec.shape[0] != "batch" or any(isinstance(dim, str) for dim in spec.shape[1:]):
            return False
        size += output[0].numel() * output.element_size()
    return size * rows <= LARGEST


def _kept_outputs(graph: Graph, split: Split, seconds: float | None, padding: Padding | None) -> list[Tensor] | None:
    """Return the outputs of all rows, kept from another student where the teacher is the same; None if too slow."""
    fingerprint = graph.fingerprint()
    if split in _OUTPUTS and _OUTPUTS[split][0] == fingerprint:
        return _OUTPUTS[split][1]
    if seconds is not None:
        inputs, _ = next(split.flat_batches(ROWS, ROWS))
        if padding:
            inputs = padding.without(inputs)
        begun = time.monotonic()
        with torch.no_grad():
            graph.flat(*(tensor.to(graph.device) for tensor in inputs))
        if (time.monotonic() - begun) * len(split) / len(inputs[0]) > SHARE * seconds:
            return None
    _OUTPUTS[split] = (fingerprint, outputs_of(graph, split, padding))
    return _OUTPUTS[split][1]

"""The rows that a pass runs through a graph: each batch is looked at before, so that bad ones are named, not felt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from leanly.checks import first_place
from leanly.errors import DataError
from leanly.graph.graph import Graph
from leanly.graph.lookups import tables
from leanly.graph.statistics import LARGEST, as_good_as_infinite
from leanly.graph.tensors import dtype_name

if TYPE_CHECKING:
    from leanly.data import Split


def checked_batches(
    graph: Graph, split: Split, size: int, limit: int | None = None
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Yield flat input tensors and targets of a split's first rows, as the graph takes them.

    Args:
        graph: takes them.
        split: gives the rows, in its order.
        size: rows in a batch.
        limit: rows in all; None reads all there are.

    Raises:
        DataError: rows of another shape, dtype or order than the graph takes, or with NaN or infinity.
    """
    split.arguments.check_order(graph.inputs, f"split {split.name!r}")
    for batch, (inputs, targets) in enumerate(split.flat_batches(size, limit)):
        check_rows(graph, inputs, f"split {split.name!r}, batch {batch}", range(size * batch, size * (batch + 1)))
        yield inputs, targets


def check_rows(graph: Graph, inputs: Sequence[Tensor], where: str, rows: Sequence[int] | Tensor | None) -> None:
    """Raise a DataError where a batch is not what the graph takes: its shape, its dtype, finite numbers, known ids.

    Args:
        graph: takes it.
        inputs: flat, rows in front.
        where: the split and the batch, for messages.
        rows: the number of each row, for messages; None where they have none, as in a stream that is mixed.
    """
    looked_up = tables(graph)
    for spec, tensor in zip(graph.inputs, inputs, strict=True):
        shape, dtype = list(tensor.shape), dtype_name(tensor)
        if dtype != spec.dtype and "float" in dtype + spec.dtype:
            raise DataError(
                f"input {spec.name} is {dtype}, and the graph takes {spec.dtype}",
                where=where,
                remedy="prepare the rows as the example",
            )
        if not spec.takes(shape):
            raise DataError(
                f"input {spec.name} is of shape {shape}, and the graph takes {list(spec.shape)}",
                where=where,
                remedy="prepare the rows as the example; a dimension that varies goes into capture(dynamic=)",
            )
        if tensor.is_floating_point() and not bool((usable := tensor.abs() < LARGEST).all()):
            raise DataError(
                f"input {spec.name} holds {as_good_as_infinite(tensor)} in {_row(~usable, rows)}",
                where=where,
                remedy="take that row out; task.check() looks at all",
            )
        if (table := looked_up.get(spec.name)) and bool((unknown := (tensor < 0) | (tensor >= table.rows)).any()):
            raise DataError(
                f"input {spec.name} holds the id {int(tensor[unknown][0])} in {_row(unknown, rows)}, and the table "
                f"{table.name} has {table.rows:,} rows, 0 to {table.rows - 1:,}",
                where=where,
                remedy="make the ids with the vocabulary that the model was trained on, or take that row out",
            )


def _row(wrong: Tensor, rows: Sequence[int] | Tensor | None) -> str:
    """Name the row of the first true entry."""
    place = first_place(wrong)[0]
    return f"row {int(rows[place])}" if rows is not None else f"row {place} of the batch"

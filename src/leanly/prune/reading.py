"""Reading: the first rows of a split, without the padding of text where the networks show that it changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from leanly.data import Split
from leanly.errors import DataError
from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.rows import checked_batches
from leanly.graph.watching import Inside
from leanly.training.padding import Padding, carries_rows, find_padding

Batch = tuple[list[Tensor], Tensor]
"""Flat inputs, and targets."""


def read_rows(graphs: Sequence[Graph], split: Split, size: int, limit: int) -> tuple[list[Graph], list[Batch]]:
    """Return graphs on the same tensors and what to run them on, held on the CPU.

    Where padding is left out, rows of about the same length stand together and the graphs take any length: what is
    computed behind the end of a text counts for nothing, and would count for most of all that is averaged.

    Args:
        graphs: of the same inputs.
        split: gives the rows.
        size: rows in a batch.
        limit: rows in all, the first ones.

    Raises:
        DataError: rows that the graphs don't take.
    """
    batches = list(checked_batches(graphs[0], split, size, limit))
    padding = find_padding(graphs, split)
    if padding is None:
        return list(graphs), batches
    carries = [carries_rows(graphs[0], position) for position in range(len(graphs[0].inputs))]
    if len({_shapes(batch) for batch in batches}) == 1:
        batches = _by_length(batches, padding, carries, size)
    short = [(padding.without(inputs), targets) for inputs, targets in batches]
    return [padding.free(graph) for graph in graphs], short


def check_seen(sums: Tensor, graph: Graph, layer: Node, split: Split, limit: int) -> None:
    """Check what was added up of a layer's values over rows.

    Args:
        sums: over the rows.
        graph: holds the layer.
        layer: its input and its output were added up.
        split, limit: the first rows of it.

    Raises:
        DataError: a value is NaN or infinite; the first row that makes one is named.
    """
    if bool(sums.isfinite().all()):
        return
    inside = Inside(graph, [argument(layer, "input").name, layer.name])
    where = f"split {split.name!r}, {layer.name} ({graph.source(layer)})"
    with torch.no_grad():
        for row, (inputs, _) in enumerate(checked_batches(graph, split, 1, limit)):
            if not all(bool(value.isfinite().all()) for value in inside(*(one.to(graph.device) for one in inputs))):
                raise DataError(
                    f"the network makes NaN or infinity of row {row}",
                    where=where,
                    remedy="take such rows out, or mend the line in front of that layer which can't compute them",
                )
    raise DataError(
        "values are too large to be squared",
        where=where,
        remedy="take rows of such size out, or scale what runs into that layer",
    )


def _shapes(batch: Batch) -> tuple[torch.Size, ...]:
    """The shapes of a row's parts."""
    inputs, targets = batch
    return tuple(tensor.shape[1:] for tensor in (*inputs, targets))


def _by_length(batches: Sequence[Batch], padding: Padding, carries: Sequence[bool], size: int) -> list[Batch]:
    """Return the rows in batches again, the shortest first; inputs that carry no rows stand in every batch."""
    columns = zip(*(inputs for inputs, _ in batches), strict=True)
    whole = [torch.cat(parts) if rows else parts[0] for parts, rows in zip(columns, carries, strict=True)]
    targets = torch.cat([labels for _, labels in batches])
    return [
        ([tensor[rows] if carried else tensor for tensor, carried in zip(whole, carries, strict=True)], targets[rows])
        for rows in padding.lengths(whole).argsort(stable=True).split(size)
    ]

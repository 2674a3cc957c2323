"""Reading: the first rows of a split, without the padding of text where the networks show that it changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leanly.data import Split
from leanly.graph import Graph
from leanly.graph.rows import checked_batches
from leanly.training.padding import find_padding

Batch = tuple[list[Tensor], Tensor]
"""Flat inputs, and targets."""


def read_rows(graphs: Sequence[Graph], split: Split, size: int, limit: int) -> tuple[list[Graph], list[Batch]]:
    """Return graphs on the same tensors and what to run them on; inputs are where the first graph computes.

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
    first = graphs[0]
    batches = list(checked_batches(first, split, size, limit))
    padding = find_padding(graphs, split)
    if padding is not None:
        columns = zip(*(inputs for inputs, _ in batches), strict=True)
        batched = [spec.shape[:1] == ("batch",) for spec in first.inputs]
        whole = [torch.cat(parts) if carries else parts[0] for parts, carries in zip(columns, batched, strict=True)]
        targets = torch.cat([labels for _, labels in batches])
        batches = []
        for rows in padding.lengths(whole).argsort(stable=True).split(size):
            picked = [tensor[rows] if carries else tensor for tensor, carries in zip(whole, batched, strict=True)]
            batches.append((padding.without(picked), targets[rows]))
        graphs = [padding.free(graph) for graph in graphs]
    return list(graphs), [([tensor.to(first.device) for tensor in inputs], labels) for inputs, labels in batches]

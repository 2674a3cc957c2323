"""Padding at the end of text: left out in training where the networks show that it changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leanly.data import Split
from leanly.graph import Graph
from leanly.graph.lengths import any_length

ROWS = 32
"""Training rows on which outputs with and without padding are compared."""
MULTIPLE = 8
"""Lengths are rounded up to it: vector kernels like them, and fewer shapes are met."""
TOLERANCE = 1e-4
"""Largest difference of an output, as a share of its largest value: sums in another order come to about 1e-6."""


@dataclass(frozen=True)
class Padding:
    """What stands behind the last token of a row.

    Args:
        inputs: positions of the inputs of whole numbers that share the length, `(rows, length)` each.
        values: what each holds there.
    """

    inputs: tuple[int, ...]
    values: tuple[int, ...]

    def without(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the inputs as long as the longest row among them needs."""
        longest, whole = max(int(self.lengths(inputs).max()), 1), inputs[self.inputs[0]].shape[1]
        length = min(-(-longest // MULTIPLE) * MULTIPLE, whole)
        return [tensor[:, :length] if p in self.inputs else tensor for p, tensor in enumerate(inputs)]

    def lengths(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the tokens of each row up to its padding `(rows,)`."""
        padded = torch.stack([inputs[p] == value for p, value in zip(self.inputs, self.values, strict=True)]).all(0)
        places = torch.arange(1, padded.shape[1] + 1, device=padded.device)
        return torch.where(padded, 0, places).amax(1)

    def free(self, graph: Graph) -> Graph:
        """Return the graph on the same tensors, for inputs without padding."""
        return any_length(graph, self.inputs)


def find_padding(graphs: Sequence[Graph], split: Split) -> Padding | None:
    """Return the padding that none of the graphs looks at; None where there is none or it matters.

    Args:
        graphs: of the same inputs; each is run on some rows with and without their padding.
        split: rows of them.
    """
    graph = graphs[0]
    inputs = _token_inputs(graph)
    if not inputs:
        return None
    leaves, _ = next(split.flat_batches(ROWS, ROWS))
    ends, counts = torch.stack([leaves[p][:, -1].long() for p in inputs], 1).unique(dim=0, return_counts=True)
    end = ends[counts.argmax()]
    padding = Padding(inputs, tuple(end.tolist()))
    rows = (torch.stack([leaves[p][:, -1] for p in inputs], 1) == end).all(1)
    whole = [tensor[rows] if carries_rows(graph, p) else tensor for p, tensor in enumerate(leaves)]
    short = padding.without(whole)
    if short[inputs[0]].shape[1] == whole[inputs[0]].shape[1]:
        return None
    return padding if all(_same(each, padding, whole, short) for each in graphs) else None


def _token_inputs(graph: Graph) -> tuple[int, ...]:
    """Positions of the inputs of one length that hold whole numbers: token ids, their mask, their kind."""
    found = [
        position
        for position, spec in enumerate(graph.inputs)
        if carries_rows(graph, position) and len(spec.shape) == 2 and spec.dtype in ("int64", "int32", "bool")
    ]
    lengths = {graph.inputs[position].shape[1] for position in found}
    return tuple(found) if len(lengths) == 1 else ()


def carries_rows(graph: Graph, position: int) -> bool:
    """Say whether an input has the batch in front."""
    return graph.inputs[position].shape[:1] == ("batch",)


def _same(graph: Graph, padding: Padding, whole: Sequence[Tensor], short: Sequence[Tensor]) -> bool:
    twin = graph.clone().eval()
    try:
        with torch.no_grad():
            wanted = twin.flat(*(tensor.to(twin.device) for tensor in whole))
            found = padding.free(twin).flat(*(tensor.to(twin.device) for tensor in short))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return all(_close(one, other) for one, other in zip(found, wanted, strict=True))


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not other.is_floating_point():
        return torch.equal(one, other)
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max())

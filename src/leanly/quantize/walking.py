"""A walk through a quantized graph: part after part, with what goes in in float and as the quantized parts give it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.segments import Runner, Segment, find_segments
from leanly.graph.statistics import check_finite
from leanly.quantize.calibration import calibration_batches
from leanly.quantize.quantizers import is_quantizer, of_weight
from leanly.task import Task

CHUNK = 64
LARGEST = 2**29
"""Bytes that the values between two segments may take; of larger ones fewer rows are used."""


class Stop(NamedTuple):
    """A segment, and what goes into it from all rows; None where the inputs of the graph do."""

    segment: Segment
    exact: Tensor | None
    rough: Tensor | None


class Walk:
    """The segments of a quantized graph in order; weights may be changed on the way, which later segments then see.

    Args:
        graph: with quantizers; its weights are read anew for every run.
        task: gives the rows, the first of `train` (of `validation` where there is no `train`).
        samples: rows.
        chunk: rows that run at once.

    Raises:
        DataError: the task has no calibration data; NaN or infinity in what comes out of a part.
    """

    def __init__(self, graph: Graph, task: Task | None, samples: int, chunk: int = CHUNK) -> None:
        self._chunk = chunk
        self.segments = find_segments(
            graph, starts=lambda node: is_quantizer(node) and not of_weight(node), counts=reads_quantized_weight
        )
        self.nodes = {node.name: node for node in graph.module.graph.nodes}
        rows = [torch.cat(parts) for parts in zip(*calibration_batches(graph, task, samples), strict=True)]
        shapes = graph.shapes(1)
        widest = max((4 * math.prod(shapes[segment.exit]) for segment in self.segments), default=1)
        self.rows = [tensor[: max(1, LARGEST // widest)].to(graph.device) for tensor in rows]
        # weights change on the way, what they should have given does not
        self.exactly, self.roughly = Runner(graph.clone().module, _unquantized), Runner(graph.module)

    def __iter__(self) -> Iterator[Stop]:
        exact: Tensor | None = None
        rough: Tensor | None = None
        for segment in self.segments:
            yield Stop(segment, exact, rough)
            exact, rough = self.run(self.exactly, segment, exact), self.run(self.roughly, segment, rough)

    def run(
        self, runner: Runner, part: Segment, given: Tensor | None, see: Callable[[Runner], None] | None = None
    ) -> Tensor:
        """Run a part on all rows, some at a time, and return what comes out.

        Args:
            runner: `exactly`, `roughly` or another.
            part: a segment or a piece of one.
            given: what goes in, from all rows; None where the inputs of the graph do.
            see: is called after every run, to look at other values.
        """
        pieces = []
        for piece in self.pieces(runner, part, given):
            pieces.append(piece)
            if see is not None:
                see(runner)
        return torch.cat(pieces)

    def pieces(self, runner: Runner, part: Segment, given: Tensor | None) -> Iterator[Tensor]:
        """Run a part on some rows after the other and yield what comes out, whatever its dimensions are."""
        for start in range(0, len(self.rows[0]), self._chunk):
            inputs = [tensor[start : start + self._chunk] for tensor in self.rows]
            entry = {} if given is None else {part.entry: given[start : start + self._chunk]}
            with torch.no_grad():
                piece = runner.part(part.nodes, inputs, entry, part.exit)
            if piece.numel():
                check_finite(piece, f"{part.exit}, calibration rows {start} to {start + len(inputs[0]) - 1}")
            yield piece


def reads_quantized_weight(node: Node) -> bool:
    """Say whether a node multiplies with a quantized weight."""
    return any(of_weight(source) for source in node.all_input_nodes)


def _unquantized(node: Node, running: Runner) -> Any:
    """Return what a quantizer is given, in place of what it would make of it."""
    return running.value(argument(node, "x")) if is_quantizer(node) else None

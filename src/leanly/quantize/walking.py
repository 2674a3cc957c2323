"""A walk through a quantized graph: part after part, with what goes in in float and as the quantized parts give it."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.quantizer import of_weight
from leanly.graph.segments import Runner, Segment, find_segments
from leanly.graph.statistics import check_finite
from leanly.quantize.calibration import calibration_batches, calibration_split
from leanly.quantize.quantizers import is_quantizer
from leanly.quantize.room import find_room, give_back
from leanly.task import Task
from leanly.training.padding import carries_rows

CHUNK = 64
MIB = 2**20


class Stop(NamedTuple):
    """A segment, and what goes into it, a tensor a chunk; the first segment is given the inputs of the graph."""

    segment: Segment
    exact: list[Tensor]
    rough: list[Tensor]


class Walk:
    """The segments of a quantized graph in order; weights may be changed on the way, which later segments then see.

    Values between segments are kept, of as many rows as there is room for: others join behind the segments whose values
    are large. A note in the graph says so.

    Args:
        graph: with quantizers; its weights are read anew for every run.
        task: gives the rows, the first of `train` (of `validation` where there is no `train`).
        samples: rows.
        name: of the pass that walks.
        chunk: rows that run at once, at most.
        inside: the values around each layer of a segment will be kept as well.
        floats: a graph of the same nodes, whose weights stay as they are: what goes in in float is given, too.

    Raises:
        DataError: the task has no calibration data; NaN or infinity in what comes out of a part.
    """

    def __init__(
        self,
        graph: Graph,
        task: Task | None,
        samples: int,
        name: str,
        *,
        chunk: int = CHUNK,
        inside: bool = False,
        floats: Graph | None = None,
    ) -> None:
        self.segments = find_segments(
            graph, starts=lambda node: is_quantizer(node) and not of_weight(node), counts=reads_quantized_weight
        )
        self.nodes = {node.name: node for node in graph.module.graph.nodes}
        room = find_room(graph, self.segments, chunk, samples, inside=inside)
        self.chunk, self.joined = room.chunk, room.chunks
        self._exact = floats is not None
        most = min(samples, room.chunk * room.chunks[-1])
        self.chunks = [
            [tensor.to(graph.device) for tensor in batch]
            for batch in calibration_batches(graph, task, most, size=room.chunk)
        ]
        self._carries = [carries_rows(graph, position) for position in range(len(graph.inputs))]
        self._lengths = [len(batch[self._carries.index(True)]) for batch in self.chunks]
        self._starts = [0, *itertools.accumulate(self._lengths)]
        read = self._starts[-1]
        split = calibration_split(task)
        asked = read if read < most else min(samples, len(split)) if split.counted else samples
        _note(graph, name, (min(room.chunk * room.chunks[0], read), read), asked, room.row)
        self.exactly = Runner((floats or graph).module, _unquantized)
        self.roughly = Runner(graph.module)

    def __iter__(self) -> Iterator[Stop]:
        exact: list[Tensor] = []
        rough: list[Tensor] = []
        for number, segment in enumerate(self.segments):
            give_back()
            # in place, the one before the other: who walks still holds the last stop
            if self._exact:
                exact[:] = self._entering(self.exactly, number, exact)
            rough[:] = self._entering(self.roughly, number, rough)
            yield Stop(segment, exact, rough)

    def _entering(self, runner: Runner, number: int, before: list[Tensor]) -> list[Tensor]:
        """Return what goes into a segment: of rows that were there what comes out of the one before it."""
        joined = self.chunks[: self.joined[number]]
        if number == 0:
            return [inputs[0] for inputs in joined]
        passed = self.pieces(runner, self.segments[number - 1], before)
        joining = (_through(runner, self.segments[:number], inputs) for inputs in joined[len(before) :])
        return self._together(itertools.chain(passed, joining), len(joined))

    def _together(self, pieces: Iterable[Tensor], chunks: int) -> list[Tensor]:
        """Return pieces, one a chunk, as parts of one tensor as far as their shapes agree.

        Small tensors that stay, between those inside a part that go, would keep their memory from use.
        """
        block: Tensor | None = None
        held = []
        for piece, start, stop in zip(pieces, self._starts, self._starts[1:], strict=False):
            if block is None:
                block = piece.new_empty(self._starts[chunks], *piece.shape[1:])
            place = block[start:stop]
            held.append(place.copy_(piece) if place.shape == piece.shape else piece)
        return held

    def run(
        self, runner: Runner, part: Segment, given: Sequence[Tensor], see: Callable[[Runner], None] | None = None
    ) -> list[Tensor]:
        """Run a part on all rows that have joined, a chunk at a time, and return what comes out.

        Args:
            runner: `exactly`, `roughly` or another.
            part: a segment or a piece of one.
            given: what goes in.
            see: is called after every run, to look at other values.
        """
        return self._together(self.pieces(runner, part, given, see), len(given))

    def pieces(
        self, runner: Runner, part: Segment, given: Sequence[Tensor], see: Callable[[Runner], None] | None = None
    ) -> Iterator[Tensor]:
        """Yield what `run` returns, whatever its dimensions are, and hold none of it."""
        first = 0
        for inputs, entry, length in zip(self.chunks, given, self._lengths, strict=False):
            with torch.no_grad():
                piece = runner.part(part.nodes, inputs, {part.entry: entry}, part.exit)
            if piece.numel():
                check_finite(piece, f"{part.exit}, calibration rows {first} to {first + length - 1}")
            first += length
            if see is not None:
                see(runner)
            yield piece
        runner.env.clear()  # else the last values stay until it runs again

    def alike(self, chunks: int) -> list[Tensor]:
        """Return the numbers of the rows of the first chunks, those whose inputs have one shape together."""
        found: dict[tuple[torch.Size, ...], list[Tensor]] = {}
        numbers = torch.arange(self._starts[-1]).split(self._lengths)
        for inputs, rows in zip(self.chunks[:chunks], numbers, strict=False):
            carrying = (tensor for tensor, carried in zip(inputs, self._carries, strict=True) if carried)
            found.setdefault(tuple(tensor.shape[1:] for tensor in carrying), []).append(rows)
        return [torch.cat(rows) for rows in found.values()]

    def inputs(self, rows: Tensor) -> list[Tensor]:
        """Return the flat inputs of some rows that are alike, in any order."""
        first, _ = self._place(int(rows[0]))
        return [
            self.picked([inputs[position] for inputs in self.chunks], rows) if carried else self.chunks[first][position]
            for position, carried in enumerate(self._carries)
        ]

    def picked(self, chunks: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Return some rows that are alike, in any order, of a tensor that is held in chunks."""
        places = map(self._place, rows.tolist())
        return torch.stack([chunks[chunk][row] for chunk, row in places])

    def _place(self, row: int) -> tuple[int, int]:
        """Return the chunk that holds a row, and its number there."""
        chunk = bisect.bisect_right(self._starts, row) - 1
        return chunk, row - self._starts[chunk]


def reads_quantized_weight(node: Node) -> bool:
    """Say whether a node multiplies with a quantized weight."""
    return any(of_weight(source) for source in node.all_input_nodes)


def _through(runner: Runner, segments: Iterable[Segment], inputs: Sequence[Tensor]) -> Tensor:
    """Return what comes out of the last segment; what goes into the first, where there is none."""
    value = inputs[0]
    for segment in segments:
        with torch.no_grad():
            value = runner.part(segment.nodes, inputs, {segment.entry: value}, segment.exit)
    return value


def _note(graph: Graph, name: str, used: tuple[int, int], asked: int, size: int) -> None:
    """Note how many rows a pass used, the fewest and the most, where there was no room for all."""
    fewest, most = used
    if fewest < asked:
        told = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        reason = f"a row and its values between layers take up to {size / MIB:.1f} MiB"
        graph.notes = (*graph.notes, f"quantize.{name}: {told} of {asked:,} calibration rows, since {reason}")


def _unquantized(node: Node, running: Runner) -> Any:
    """Return what a quantizer is given, in place of what it would make of it."""
    return running.value(argument(node, "x")) if is_quantizer(node) else None

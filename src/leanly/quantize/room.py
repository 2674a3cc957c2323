"""Room: how many calibration rows a walk can hold, and how many of them run at once."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leanly.graph import Graph
from leanly.graph.segments import Segment
from leanly.graph.shapes import bytes_a_row

LARGEST = 2**29
"""Bytes that rows, in half of it, and the values between two segments may take; fewer rows are used to fit."""
AT_ONCE = 2**26
"""Bytes that the values inside a segment may take; where a row takes more of them, fewer rows run at once."""


@dataclass(frozen=True)
class Room:
    """What there is room for.

    Args:
        chunk: rows that run at once.
        chunks: how many of them each segment is given: never fewer than the one before it.
        row: bytes that a row and the values around a segment take at most.
    """

    chunk: int
    chunks: tuple[int, ...]
    row: int


def find_room(graph: Graph, segments: Sequence[Segment], chunk: int, samples: int, *, inside: bool) -> Room:
    """Say how many rows there is room for.

    Args:
        graph: any graph.
        segments: of it, in order; without them only rows are held.
        chunk: rows that run at once, at most.
        samples: rows that are asked for: all of them are held from the start.
        inside: the values around each layer of a segment are held as well.
    """
    sizes = bytes_a_row(graph)
    inputs = sum(sizes.get(node.name, 0) for node in graph.module.graph.nodes if node.op == "placeholder")
    values = [_held(segment, sizes, inside) for segment in segments] or [0]
    most = max(1, LARGEST // 2 // max(1, inputs))
    left = LARGEST - inputs * min(samples, most)
    fitting = [max(1, min(most, left // max(1, size))) for size in values]
    at_once = max((sum(sizes.get(name, 0) for name in segment.nodes) for segment in segments), default=1)
    chunk = max(1, min(chunk, min(fitting), AT_ONCE // max(1, at_once)))
    # a row that leaves would be computed again from the inputs where there is room once more
    lasting = tuple(itertools.accumulate(reversed(fitting), min))[::-1]
    return Room(chunk, tuple(rows // chunk for rows in lasting), inputs + max(values))


def give_back() -> None:
    """Give freed memory back to the system: glibc keeps it, and large tensors are put beside it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _held(segment: Segment, sizes: Mapping[str, int], inside: bool) -> int:
    """Return the bytes of a row that are held around a segment: what goes in and what comes out, one of them twice."""
    entry, exit = sizes.get(segment.entry, 0), sizes[segment.exit]
    if inside:
        return 2 * entry + 3 * max(sizes.get(name, 0) for name in segment.nodes)
    return entry + exit + max(entry, exit)

"""A file whose tensors of few distinct values are entropy-coded, and that very file back from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from leanly import varint
from leanly.entropy import decode, encode

HASH = 32
ITEMS = (1, 2, 4, 8)
"""Bytes that an element may have."""
LARGEST = 2**31
"""Bytes of a tensor; protobuf holds no larger ones."""
WORTH = 0.75
"""A tensor is coded where that leaves at most this share of its bytes: decoding takes time when the file is opened."""


@dataclass(frozen=True)
class Span:
    """Bytes of a file that hold a tensor, seen as a matrix.

    Args:
        offset: of its first byte.
        item: bytes of an element, one of ITEMS.
        rows, columns: of the matrix; a row is what one output reads.
    """

    offset: int
    item: int
    rows: int
    columns: int

    @property
    def stop(self) -> int:
        """The byte behind its last."""
        return self.offset + self.item * self.rows * self.columns

    @property
    def dtype(self) -> np.dtype:
        """Unsigned integers of its elements' size."""
        return np.dtype(f"<u{self.item}")


def compact(content: bytes, spans: Iterable[Span]) -> bytes:
    """Return a file in its compact form: its hash, where coded tensors were, they, and the rest as it is.

    Raises:
        ValueError: tensors overlap or reach beyond the end.
    """
    pieces, rest, position = [], [], 0
    for span, coded in _coded(content, spans):
        rest.append(content[position : span.offset])
        pieces.append(_head(span, len(coded), span.offset - position) + coded)
        position = span.stop
    rest.append(content[position:])
    return b"".join([hashlib.sha256(content).digest(), varint.write(len(pieces)), *pieces, *rest])


def restore(content: bytes) -> bytes:
    """Return the file that `compact` was given.

    Raises:
        ValueError: it is not what `compact` gave.
    """
    reader = varint.Reader(content, HASH)
    tensors: list[tuple[int, bytes]] = []
    for _ in range(reader.number()):
        gap, item, rows, columns, size = (reader.number() for _ in range(5))
        if item not in ITEMS or item * rows * columns > LARGEST:
            raise ValueError(f"a tensor of {rows:,} by {columns:,} elements of {item} bytes")
        tensors.append((gap, decode(reader.take(size), (rows, columns), np.dtype(f"<u{item}")).tobytes()))
    parts = []
    for gap, tensor in tensors:
        parts += [reader.take(gap), tensor]
    whole = b"".join([*parts, reader.rest()])
    if hashlib.sha256(whole).digest() != content[:HASH]:
        raise ValueError("the file does not fit its hash")
    return whole


def _coded(content: bytes, spans: Iterable[Span]) -> Iterator[tuple[Span, bytes]]:
    """Yield the tensors that are worth it, in order, each with its code."""
    position = 0
    for span in sorted(spans, key=lambda span: span.offset):
        if span.offset < position or span.stop > len(content):
            raise ValueError("tensors overlap or reach beyond the end")
        position = span.stop
        count = span.rows * span.columns
        values = np.frombuffer(content, span.dtype, count, span.offset).reshape(span.rows, span.columns)
        coded = encode(values, WORTH)
        if coded is not None:
            yield span, coded


def _head(span: Span, size: int, gap: int) -> bytes:
    return b"".join(map(varint.write, (gap, span.item, span.rows, span.columns, size)))

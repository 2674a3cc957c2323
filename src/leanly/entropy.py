"""Entropy coding: arrays of few distinct values become fewer bytes, and come back exactly.

A range coder (Martin 1979, "Range encoding: an algorithm for removing redundancy from a digitised message"; the coder
is constriction's) with models that learn as they go, so that no table of frequencies is stored. The zeros of pruning
stand unevenly: whether a place is taken is coded by how full its row and its column are, then what stands there. Of
small numbers in wide elements, as biases are, the length is coded and the bits follow (Elias 1975, "Universal codeword
sets and representations of the integers").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import constriction
import numpy as np

from leanly import varint

STREAM = cast(Any, constriction).stream
MOST_VALUES = 256
"""Distinct values of an array that is coded as a whole; dense floats have more."""
LOOKED_AT = 4096
"""Elements that are looked at first: an array with too many values is told apart before it is sorted."""
BLOCKS, LEAST = 1024, 64
"""An array is coded in at most so many blocks of rows, of so many elements at least; the models learn from each."""
SEEN = 0.5
"""How often each symbol counts as seen before the first one."""
COMMON = 0.5
"""Where one value has this share, it is not coded among the others: the places of the others are."""
WEIGHTS = (1.0, 4.0, 16.0, 1e9)
"""Expected values that stand against what was seen of a column; the best is kept, by the last columns don't matter."""
ALL, PLANES, SPARSE, LENGTHS = range(len(WEIGHTS), len(WEIGHTS) + 4)
"""In the place of a weight: every symbol is coded, no place is; each byte of the elements is coded on its own; the
places of what is not zero are coded, then come those elements; how long signed numbers are is coded, then come their
bits."""
LARGEST_IN_PLANES = 2**16
"""Elements of an array whose bytes are coded one by one: biases have as many, floats in large arrays gain nothing."""
FEW = 2**12
"""Elements of an array on which every way is tried: of more, too much time would go into it."""
KNOWN = 0.6
"""Of the entropy of the values alone, what is left at least where it is known how full rows and columns are."""
TRIED = 2**17
"""Elements on which it is tried what columns are worth."""
RARE = 1e-5
"""The least chance that is reckoned with."""
WORD = 4
"""Bytes of the coder's words."""

Code = Callable[..., np.ndarray]
"""`(model, symbols, parameters)`: writes symbols and returns them, or reads as many."""


def encode(array: np.ndarray, most: float = 1.0) -> bytes | None:
    """Code a matrix; None where it has too many distinct values, or can't become as small as asked for.

    Args:
        array: (rows, columns), of unsigned integers; other elements are viewed as integers of their size.
        most: share of its bytes that may be left.
    """
    few = array.size and len(np.unique(array.ravel()[:LOOKED_AT])) <= MOST_VALUES
    found = _unique(array) if few else None
    if found is None or len(found[0]) > MOST_VALUES:
        coded = _of_many_values(array)
    else:
        # where elements are few, their parts can be less than a table of their values
        coded = _shorter(_as_symbols(*found, most), _in_parts(array) if array.size <= FEW else None)
    return coded if coded is not None and len(coded) <= most * array.nbytes else None


def _shorter(one: bytes | None, other: bytes | None) -> bytes | None:
    return min((coded for coded in (one, other) if coded is not None), key=len, default=None)


def _as_symbols(values: np.ndarray, symbols: np.ndarray, counts: np.ndarray, most: float) -> bytes | None:
    shares = counts / symbols.size
    if -float(shares @ np.log2(shares)) * KNOWN > 8 * most * values.itemsize:
        return None
    order = np.argsort(-counts, kind="stable")
    symbol_of = np.empty(len(order), np.int32)
    symbol_of[order] = np.arange(len(order))
    symbols = symbol_of[symbols]
    table = bytes([len(values) - 1]) + values[order].astype(values.dtype.newbyteorder("<")).tobytes()
    if len(values) == 1:
        return bytes([ALL]) + table
    way = _best_way(symbols, len(values)) if shares.max() >= COMMON else ALL
    return bytes([way]) + table + _write(symbols, len(values), way)


def _best_way(symbols: np.ndarray, count: int) -> int:
    """Return what columns are worth, where the places of what is not 0 are coded."""
    some = symbols[: -(-TRIED // symbols.shape[1])]
    return min(range(ALL), key=lambda way: len(_write(some, count, way)))


def _unique(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct values, each element's place among them, and how often each stands there."""
    if array.itemsize > 2:
        values, places, counts = np.unique(array, return_inverse=True, return_counts=True)
        return values, places.reshape(array.shape), counts
    counts = np.bincount(array.ravel(), minlength=256**array.itemsize)
    values = counts.nonzero()[0]
    place_of = np.zeros(len(counts), np.int32)
    place_of[values] = np.arange(len(values))
    return values.astype(array.dtype), place_of[array], counts[values]


def decode(content: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    """Return the matrix that `encode` was given.

    Raises:
        ValueError: the content is damaged.
    """
    reader = varint.Reader(content)
    try:
        way = reader.take(1)[0]
        if way == PLANES:
            return _from_planes(reader, shape, dtype)
        if way == SPARSE:
            return _from_places(reader, shape, dtype)
        if way == LENGTHS:
            return _from_lengths(reader, shape, dtype)
        count = reader.take(1)[0] + 1
        values = np.frombuffer(reader.take(count * dtype.itemsize), dtype.newbyteorder("<")).astype(dtype)
        if count == 1:
            return np.full(shape, values[0], dtype)
        return values[_read(reader.rest(), shape, count, way)]
    except (IndexError, AssertionError) as error:
        raise ValueError("coded values are damaged") from error


def _of_many_values(array: np.ndarray) -> bytes | None:
    taken = array != 0
    if not array.size or taken.mean() > 1 - COMMON:
        return _in_parts(array)
    places = taken.astype(np.int32)
    way = _best_way(places, 2)
    written, rest = _write(places, 2, way), array[taken][None]
    parts = (bytes([SPARSE, way]), varint.write(len(written)), written)
    return b"".join([*parts, _coded_or_whole(_in_parts(rest), rest)])


def _from_places(reader: varint.Reader, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    way = reader.take(1)[0]
    taken = _read(reader.take(reader.number()), shape, 2, way) != 0
    array = np.zeros(shape, dtype)
    array[taken] = _read_coded_or_whole(reader, (1, int(taken.sum())), dtype)[0]
    return array


def _coded_or_whole(coded: bytes | None, array: np.ndarray) -> bytes:
    """Write a matrix as it was coded, or as it is where that gave nothing."""
    coded = coded or b""
    return varint.write(len(coded)) + (coded or array.astype(array.dtype.newbyteorder("<")).tobytes())


def _read_coded_or_whole(reader: varint.Reader, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    size = reader.number()
    if size:
        return decode(reader.take(size), shape, dtype)
    whole = reader.take(shape[0] * shape[1] * dtype.itemsize)
    return np.frombuffer(whole, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def _in_parts(array: np.ndarray) -> bytes | None:
    if array.dtype.itemsize == 1 or not 0 < array.size <= LARGEST_IN_PLANES:
        return None
    return _shorter(_in_planes(array), _in_lengths(array) if array.size <= FEW else None)


def _in_planes(array: np.ndarray) -> bytes:
    """Code the first bytes of all elements, then the second and so on: the high ones of small integers are alike."""
    return bytes([PLANES]) + b"".join(_coded_or_whole(encode(plane), plane) for plane in _bytes_of(array))


def _from_planes(reader: varint.Reader, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    array = np.empty(shape, dtype)
    for plane in _bytes_of(array):
        plane[:] = _read_coded_or_whole(reader, shape, plane.dtype)
    return array


def _in_lengths(array: np.ndarray) -> bytes:
    """Code how many bits each signed number has, sign included, then those below the highest one."""
    wide = 8 * array.itemsize
    folded = (array << 1) ^ -(array >> (wide - 1))
    lengths = np.searchsorted(_powers(array.dtype), folded, side="right").astype(np.uint8)
    bits = (folded[..., None] >> np.arange(wide, dtype=array.dtype)) & 1
    below = np.packbits(bits[_below(lengths, wide)].astype(np.uint8))
    return bytes([LENGTHS]) + _coded_or_whole(encode(lengths), lengths) + below.tobytes()


def _from_lengths(reader: varint.Reader, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    wide = 8 * dtype.itemsize
    lengths = _read_coded_or_whole(reader, shape, np.dtype(np.uint8))
    if lengths.max() > wide:
        raise ValueError("coded values are damaged")
    below = _below(lengths, wide)
    count = int(below.sum())
    bits = np.zeros((*shape, wide), dtype)
    bits[below] = np.unpackbits(np.frombuffer(reader.take(-(-count // 8)), np.uint8), count=count)
    highest = np.concatenate([np.zeros(1, dtype), _powers(dtype)])[lengths]
    folded = highest + (bits << np.arange(wide, dtype=dtype)).sum(-1, dtype=dtype)
    return (folded >> 1) ^ -(folded & 1)


def _powers(dtype: np.dtype[Any]) -> np.ndarray:
    return np.left_shift(np.ones(1, dtype), np.arange(8 * dtype.itemsize, dtype=dtype))


def _below(lengths: np.ndarray, wide: int) -> np.ndarray:
    """Say of every bit whether it stands below the highest one of its number."""
    return np.arange(1, wide + 1) < lengths[..., None]


def _bytes_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield views of the bytes of a matrix's elements, the lowest first."""
    single = array.view(np.uint8).reshape(*array.shape, -1)
    yield from np.moveaxis(single, -1, 0)


def _write(symbols: np.ndarray, count: int, way: int) -> bytes:
    encoder = STREAM.queue.RangeEncoder()

    def code(model: Any, given: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
        encoder.encode(np.ascontiguousarray(given, np.int32), model, *parameters)
        return given

    _walk(code, symbols, count, way)
    coded = encoder.get_compressed().astype("<u4").tobytes()
    # the last word alone may be cut short: reading fills it up again
    return coded[:-WORD] + coded[-WORD:].rstrip(b"\0")


def _read(content: bytes, shape: tuple[int, int], count: int, way: int) -> np.ndarray:
    words = np.frombuffer(content + bytes(-len(content) % WORD), "<u4").astype(np.uint32)
    decoder = STREAM.queue.RangeDecoder(words)

    def code(model: Any, given: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
        return decoder.decode(model, *(parameters or (len(given),)))

    symbols = np.zeros(shape, np.int32)
    _walk(code, symbols, count, way)
    return symbols


def _walk(code: Code, symbols: np.ndarray, count: int, way: int) -> None:
    """Code a matrix of symbols block by block; reading puts them where writing takes them from."""
    rows, columns = symbols.shape
    step = max(-(-rows // BLOCKS), -(-LEAST // columns))
    places = None if way == ALL else _Places(columns, WEIGHTS[way])
    which = _Frequencies(count if places is None else count - 1)
    for start in range(0, rows, step):
        block = symbols[start : start + step]
        taken = np.ones(block.shape, bool) if places is None else places.code(code, block != 0)
        coded = code(which.model(), block[taken] - (places is not None)) if taken.any() else np.empty(0, np.int32)
        which.learn(coded)
        block[taken] = coded + (places is not None)


class _Frequencies:
    """How often each symbol was seen."""

    def __init__(self, count: int) -> None:
        self._seen = np.full(max(count, 2), SEEN)

    def model(self) -> Any:
        return STREAM.model.Categorical(self._seen, perfect=False)

    def learn(self, symbols: np.ndarray) -> None:
        self._seen += np.bincount(symbols, minlength=len(self._seen))


class _Places:
    """Which places of a row are taken: first about how many, then each by that and by what was seen of its column."""

    def __init__(self, columns: int, weight: float) -> None:
        self._columns, self._weight = columns, weight
        self._taken, self._expected = np.zeros(columns), 0.0
        self._most = _most_of_levels(columns)
        self._levels = _Frequencies(len(self._most))

    def code(self, code: Code, taken: np.ndarray) -> np.ndarray:
        """Code which places of a block of rows are taken, (rows, columns)."""
        levels = code(self._levels.model(), np.searchsorted(self._most, taken.sum(1)))
        self._levels.learn(levels)
        least = np.concatenate([[0], self._most[:-1] + 1])
        share = (self._most + least)[levels] / (2 * self._columns)
        # a column's count against what it would be were all columns alike
        column = (self._taken + self._weight) / (self._expected + self._weight)
        chances = np.clip(share[:, None] * column, RARE, 1 - RARE)
        some = levels > 0
        found = np.zeros(taken.shape, bool)
        if some.any():
            found[some] = code(
                STREAM.model.Bernoulli(perfect=False), taken[some].ravel(), chances[some].ravel()
            ).reshape(-1, self._columns)
        counts = found.sum(0)
        self._taken += counts
        self._expected += int(counts.sum()) / self._columns
        return found


def _most_of_levels(columns: int) -> np.ndarray:
    """Return the most that rows of each level hold: 0, 1, 2, 3, 4, 6, 8, 12, 16 and so on."""
    most, power = [0, 1], 2
    while most[-1] < columns:
        most += [power, power * 3 // 2]
        power *= 2
    return np.unique(np.minimum(most, columns))

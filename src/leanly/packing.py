"""Codes of a few bits, packed without a gap and unpacked again."""

from __future__ import annotations

import numpy as np

CHUNK = 2**20
"""Codes that are spread out into single bits at a time; a multiple of eight, so that chunks end with a byte."""


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes along the last dimension, the first in the lowest bits; the last byte is filled with zeros.

    Args:
        codes: uint8, each below `2 ** bits`.
        bits: 1 to 8.
    """
    single = np.unpackbits(codes.astype(np.uint8)[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(single.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def pack_flat(codes: np.ndarray, bits: int) -> bytes:
    """Do the same for one long row, a piece at a time."""
    return b"".join(pack(codes[start : start + CHUNK], bits).tobytes() for start in range(0, len(codes), CHUNK))


def unpack_flat(packed: bytes, bits: int, count: int) -> np.ndarray:
    """Return the uint8 codes that `pack_flat` packed.

    Raises:
        ValueError: there are fewer.
    """
    codes = np.empty(count, np.uint8)
    whole = np.frombuffer(packed, np.uint8)
    if len(whole) < packed_bytes(bits, count):
        raise ValueError(f"{len(whole)} bytes hold no {count} codes of {bits} bits")
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        piece = whole[start * bits // 8 : -(-stop * bits // 8)]
        single = np.unpackbits(piece, count=(stop - start) * bits, bitorder="little").reshape(-1, bits)
        codes[start:stop] = np.packbits(single, axis=1, bitorder="little")[:, 0]
    return codes


def packed_bytes(bits: int, count: int) -> int:
    """Return how many bytes so many codes take."""
    return -(-bits * count // 8)

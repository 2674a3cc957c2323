"""Codes of a few bits, packed without a gap."""

from __future__ import annotations

from typing import Any

import numpy as np


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes along the last dimension, the first in the lowest bits; the last byte is filled with zeros.

    Args:
        codes: uint8, each below `2 ** bits`.
        bits: 1 to 8.
    """
    single = np.unpackbits(codes.astype(np.uint8)[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(single.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def in_the_middle(zero: Any, bits: int) -> bool:
    """Say whether all zero points of codes of some bits are the middle one, which needs no storing."""
    return bool((zero == 2 ** (bits - 1)).all())

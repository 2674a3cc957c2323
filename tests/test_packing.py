"""Packing of codes: every code is where ONNX says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanly.packing import pack

BITS = range(1, 9)


def codes_of(data: st.DataObject, bits: int) -> np.ndarray:
    return np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=40)), np.uint8)


@pytest.mark.parametrize("bits", BITS)
@given(data=st.data())
def test_codes_lie_one_behind_the_other_from_the_lowest_bit_on(bits: int, data: st.DataObject) -> None:
    codes = codes_of(data, bits)
    packed = pack(codes, bits)
    assert len(packed) == -(-bits * len(codes) // 8)
    whole = int.from_bytes(packed.tobytes(), "little")
    assert [(whole >> (n * bits)) & (2**bits - 1) for n in range(len(codes))] == codes.tolist()
    assert whole >> (len(codes) * bits) == 0, "the last byte is filled with zeros"


def test_rows_are_packed_apart() -> None:
    assert pack(np.array([[1, 2, 3], [4, 5, 6]], np.uint8), 4).tolist() == [[0x21, 0x03], [0x54, 0x06]]

"""Packing of codes: every code is where ONNX says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanly.lowering.packing import pack


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@given(data=st.data())
def test_codes_can_be_read_back(bits: int, data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=40)), np.uint8)
    packed, each = pack(codes, bits), 8 // bits
    assert len(packed) == -(-len(codes) // each)
    back = [(int(packed[n // each]) >> (n % each * bits)) & (2**bits - 1) for n in range(len(codes))]
    assert back == codes.tolist()


def test_rows_are_packed_apart() -> None:
    assert pack(np.array([[1, 2, 3], [4, 5, 6]], np.uint8), 4).tolist() == [[0x21, 0x03], [0x54, 0x06]]

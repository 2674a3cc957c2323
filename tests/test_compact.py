"""Compact files: the very file comes back, and never something else."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanly import varint
from leanly.compact import HASH, Span, compact, restore


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[Span]]:
    content, spans = b"", []
    for _ in range(draw(st.integers(0, 4))):
        content += draw(st.binary(max_size=20))
        item = draw(st.sampled_from([1, 2, 4, 8]))
        rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 40))
        values = draw(st.lists(st.integers(0, 3), min_size=rows * columns, max_size=rows * columns))
        spans.append(Span(len(content), item, rows, columns))
        content += np.array(values, f"<u{item}").tobytes()
    return content + draw(st.binary(max_size=20)), spans


@given(files())
def test_the_very_file_comes_back(case: tuple[bytes, list[Span]]) -> None:
    content, spans = case
    small = compact(content, spans)
    assert restore(small) == content


def test_what_gains_nothing_stays_as_it_is() -> None:
    content = np.random.default_rng(0).standard_normal(1000).astype(np.float32).tobytes()
    spans = [Span(0, 4, 10, 100)]
    assert compact(content, spans)[HASH + 1 :] == content


CONTENT = bytes(range(100)) + bytes([3, 0, 0, 1] * 100) + bytes(range(100))
SPAN = Span(100, 1, 4, 100)


def test_a_flipped_byte_never_gives_another_file() -> None:
    small = compact(CONTENT, [SPAN])
    assert restore(small) == CONTENT and len(small) < len(CONTENT) - 200
    for place in range(len(small)):
        torn = bytearray(small)
        torn[place] ^= 1
        # the last bits of a coder's last word may say nothing
        with contextlib.suppress(ValueError):
            assert restore(bytes(torn)) == CONTENT


def test_a_torn_file_is_refused() -> None:
    small = compact(CONTENT, [SPAN])
    for size in range(len(small)):
        with pytest.raises(ValueError):
            restore(small[:size])


@pytest.mark.parametrize("item, side", [(3, 4), (8, 2**20)])
def test_a_head_that_asks_for_what_no_file_has_is_refused(item: int, side: int) -> None:
    head = b"".join(map(varint.write, (1, 0, item, side, side, 2)))
    with pytest.raises(ValueError, match="a tensor of"):
        restore(bytes(HASH) + head + b"\0\0")


@pytest.mark.parametrize("spans", [[SPAN, Span(150, 1, 4, 50)], [Span(500, 1, 4, 50)]])
def test_tensors_that_overlap_or_reach_too_far_are_refused(spans: list[Span]) -> None:
    with pytest.raises(ValueError, match="overlap"):
        compact(CONTENT, spans)

"""Entropy coding: every array comes back, near the entropy of what chose it, and damage is never a crash."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from leanly.entropy import LARGEST_IN_PLANES, MOST_VALUES, decode, encode

TYPES = [np.dtype(f"<u{item}") for item in (1, 2, 4, 8)]


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from(TYPES))
    values = draw(st.lists(st.integers(0, np.iinfo(dtype).max), min_size=1, max_size=20))
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
    picked = draw(arrays.arrays(np.int64, shape, elements=st.integers(0, len(values) - 1)))
    return np.array(values, dtype)[picked]


@given(matrices())
def test_every_matrix_comes_back(array: np.ndarray) -> None:
    coded = encode(array, np.inf)
    assert coded is not None
    found = decode(coded, (array.shape[0], array.shape[1]), array.dtype)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (3000, 7)])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99, 1.0])
def test_long_and_uneven_ones_come_back(shape: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(0)
    array = np.where(rng.random(shape) < share, rng.integers(1, 200, shape), 0).astype(np.uint8)
    coded = encode(array, np.inf)
    assert coded is not None
    np.testing.assert_array_equal(decode(coded, shape, array.dtype), array)


def test_small_integers_in_wide_elements_cost_what_they_need() -> None:
    rng = np.random.default_rng(3)
    array = rng.integers(-2000, 2000, (4 * MOST_VALUES, 1)).astype(np.int32).view(np.uint32)
    coded = encode(array)
    assert coded is not None and len(coded) < 1.7 * array.size + 400
    late = np.concatenate([np.zeros((10_000, 1), np.uint32), array])
    for whole in (array, late):
        np.testing.assert_array_equal(decode(encode(whole) or b"", (len(whole), 1), array.dtype), whole)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_a_few_signed_numbers_cost_little_more_than_their_bits(dtype: type) -> None:
    rng = np.random.default_rng(5)
    numbers = np.rint(2000 * rng.standard_normal((40, 1))).astype(np.dtype(dtype).str.replace("u", "i"))
    for array in (numbers, -numbers, np.where(numbers > 0, numbers, 0)):
        bits = sum(int(abs(number)).bit_length() + 1 for number in array.ravel())
        coded = encode(array.view(dtype), np.inf)
        assert coded is not None and len(coded) < (bits + 3 * array.size) / 8 + 16
        np.testing.assert_array_equal(decode(coded, (40, 1), np.dtype(dtype)).view(array.dtype), array)
    ends = np.array([[0, 1, np.iinfo(dtype).max, np.iinfo(dtype).max // 2, np.iinfo(dtype).max // 2 + 1]], dtype)
    np.testing.assert_array_equal(decode(encode(ends, np.inf) or b"", (1, 5), np.dtype(dtype)), ends)


def test_too_many_values_are_left_alone() -> None:
    many = np.arange(LARGEST_IN_PLANES + 1, dtype=np.uint32)[None]
    assert encode(many) is None
    assert encode(many[:, :-1]) is not None
    assert encode(np.empty((0, 4), np.uint8)) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.45])
def test_floats_among_zeros_cost_their_places_and_themselves(share: float, dtype: type) -> None:
    rng = np.random.default_rng(5)
    shape = (400, 300)
    floats = np.where(rng.random(shape) < share, rng.normal(size=shape), 0).astype(dtype)
    array = floats.view(f"<u{floats.itemsize}")
    taken = float((array > 0).mean())
    places = -taken * np.log2(taken) - (1 - taken) * np.log2(1 - taken)
    coded = encode(array)
    assert coded is not None and len(coded) < array.size * (places / 8 + taken * array.itemsize) * 1.03 + 50
    np.testing.assert_array_equal(decode(coded, shape, array.dtype), array)
    for cut in (3, len(coded) // 2, len(coded) - 1):
        with contextlib.suppress(ValueError):
            assert decode(coded[:cut], shape, array.dtype).shape == shape


def test_what_gains_less_than_asked_for_is_left_alone() -> None:
    array = np.random.default_rng(4).integers(0, 100, (300, 300)).astype(np.uint8)
    assert encode(array, 0.75) is None
    coded = encode(array, 0.9)
    assert coded is not None and len(coded) < 0.85 * array.size


@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_bytes_are_near_the_entropy(share: float) -> None:
    rng = np.random.default_rng(1)
    array = np.where(rng.random((300, 784)) < share, rng.integers(1, 9, (300, 784)), 0).astype(np.uint8)
    taken = float((array > 0).mean())
    places = 0.0 if taken == 1 else -taken * np.log2(taken) - (1 - taken) * np.log2(1 - taken)
    entropy = array.size * (places + 3 * taken) / 8
    coded = encode(array)
    assert coded is not None and entropy * 0.98 < len(coded) < entropy * 1.03 + 50


def test_zeros_that_stand_together_cost_less() -> None:
    rng = np.random.default_rng(2)
    even = (rng.random((300, 800)) < 0.03).astype(np.uint8)
    chances = 0.03 * rng.gamma(0.3, 1 / 0.3, 800) * rng.gamma(0.5, 1 / 0.5, (300, 1))
    uneven = (rng.random((300, 800)) < chances).astype(np.uint8)
    sizes = [len(encode(array) or b"") / array.sum() for array in (even, uneven)]
    assert sizes[1] < 0.8 * sizes[0]


@given(st.binary(max_size=60), st.sampled_from(TYPES))
def test_damage_is_a_value_error_or_other_numbers(content: bytes, dtype: np.dtype) -> None:
    with contextlib.suppress(ValueError):
        assert decode(content, (6, 7), dtype).shape == (6, 7)

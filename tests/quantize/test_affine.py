"""Arithmetic of affine integers, as properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leanly.errors import SettingError
from leanly.quantize.affine import Affine, fixed_point, from_range, integer_range

FINITE = st.floats(-1e6, 1e6, width=32)


@st.composite
def affines(draw: st.DrawFn) -> tuple[Affine, float, float]:
    low, high = sorted((draw(FINITE), draw(FINITE)))
    signed = draw(st.booleans())
    affine = from_range(
        torch.tensor(low),
        torch.tensor(high),
        bits=draw(st.integers(2, 8)),
        symmetric=draw(st.booleans()),
        signed=signed,
    )
    return affine, min(low, 0.0), max(high, 0.0)


@given(affines(), st.floats(0, 1))
def test_inside_the_range_the_error_is_at_most_half_a_step(case, share):
    affine, low, high = case
    x = torch.tensor(low + (high - low) * share, dtype=torch.float32)
    step = 1 / float(affine.scale)
    # Zero sits on a whole step, which moves the range by up to half a step: ends may lose as much again.
    inside = step * (affine.low - float(affine.shift)) <= float(x) <= step * (affine.high - float(affine.shift))
    error = abs(float(affine.dequantize(affine.quantize(x))) - float(x))
    assert error <= step * (0.5 if inside else 1.0) * (1 + 1e-4) + 1e-6 * abs(float(x))


@given(affines(), FINITE)
def test_outside_it_saturates(case, far):
    affine, low, high = case
    beyond = torch.tensor([high + abs(far) + (high - low) + 1, low - abs(far) - (high - low) - 1])
    integers = affine.quantize(beyond * 10)
    assert integers.tolist()[0] >= affine.quantize(torch.tensor(high))
    assert affine.low <= int(integers.min()) and int(integers.max()) <= affine.high


@given(affines(), FINITE, FINITE)
def test_monotone(case, a, b):
    affine = case[0]
    low, high = affine.quantize(torch.tensor(sorted((a, b)))).tolist()
    assert low <= high


@given(affines(), FINITE)
def test_quantizing_twice_is_quantizing_once(case, x):
    affine = case[0]
    once = affine.quantize(torch.tensor(x))
    assert torch.equal(affine.quantize(affine.dequantize(once)), once)


@given(affines())
def test_zero_is_exact(case):
    affine = case[0]
    assert float(affine.dequantize(affine.quantize(torch.zeros(())))) == 0.0


@given(affines(), FINITE)
def test_zero_point_form_is_the_same_arithmetic(case, x):
    affine = case[0]
    step, zero_point = affine.zero_point_form()
    back = Affine.from_zero_point_form(step, zero_point, affine.low, affine.high)
    integers = affine.quantize(torch.tensor(x))
    assert abs(int(back.quantize(torch.tensor(x))) - int(integers)) <= 1  # the reciprocal rounds once
    assert float((integers - zero_point) * step) == pytest.approx(
        float(affine.dequantize(integers)), rel=1e-5, abs=1e-30
    )


@settings(max_examples=30)
@given(st.integers(2, 8), st.booleans())
def test_channels_are_independent(bits, symmetric):
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(bits)) * torch.tensor(
        [[1.0], [10], [0], [1e-3], [1e3]]
    )
    affine = from_range(weight.amin(1), weight.amax(1), bits=bits, symmetric=symmetric, signed=True, axis=0)
    whole = affine.quantize(weight)
    for row in range(5):
        alone = from_range(weight[row].amin(), weight[row].amax(), bits=bits, symmetric=symmetric, signed=True)
        assert torch.equal(alone.quantize(weight[row]), whole[row])


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-40, 1e-30, 3e38])
def test_constant_and_extreme_tensors_stay_finite(value):
    x = torch.full((4,), value)
    affine = from_range(x.min(), x.max(), bits=8, symmetric=True, signed=True)
    restored = affine.dequantize(affine.quantize(x))
    assert torch.isfinite(restored).all()
    assert torch.allclose(restored, x, rtol=0.01, atol=1e-30)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.integers(0, 24))
def test_fixed_point_is_within_half_a_unit(values, bits):
    y = np.array(values)
    assert np.abs(fixed_point(y, bits) / 2.0**bits - y).max() <= 0.5 / 2**bits


@pytest.mark.parametrize("bits", [0, 1, 9, -3])
def test_bits_out_of_range(bits):
    with pytest.raises(SettingError, match="bits"):
        integer_range(bits, signed=True)

"""Arithmetic of affine integers, as properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leanly.errors import SettingError
from leanly.quantize.affine import Affine, fixed_point, from_range, integer_range
from leanly.quantize.static import weight_affine

FINITE = st.floats(-1e6, 1e6, width=32)


@st.composite
def affines(draw: st.DrawFn) -> tuple[Affine, float, float]:
    low, high = sorted((draw(FINITE), draw(FINITE)))
    signed = draw(st.booleans())
    bits = draw(st.integers(1, 8))
    affine = from_range(
        torch.tensor(low),
        torch.tensor(high),
        bits=bits,
        symmetric=draw(st.booleans()) and bits > 1,
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


@pytest.mark.parametrize("bits", [0, 9, -3, 2.5, True])
def test_bits_out_of_range(bits):
    with pytest.raises(SettingError, match="bits"):
        integer_range(bits, signed=True)


def test_one_narrow_bit_is_none():
    with pytest.raises(SettingError, match="one bit"):
        integer_range(1, signed=True, narrow=True)


@pytest.mark.parametrize("signed", [True, False])
def test_one_symmetric_bit_stands_for_the_two_ends(signed):
    affine = from_range(torch.tensor(-1.5), torch.tensor(2.0), bits=1, symmetric=True, signed=signed)
    x = torch.tensor([-9.0, -2.0, -0.1, 0.1, 2.0, 9.0])
    assert affine.dequantize(affine.quantize(x)).tolist() == [-2, -2, -2, 2, 2, 2]
    assert affine.high - affine.low == 1
    with pytest.raises(SettingError, match="no zero point"):
        affine.zero_point_form()


@settings(max_examples=30)
@given(st.integers(2, 8), st.booleans(), st.sampled_from([1, 2, 4, 8]))
def test_groups_are_independent(bits, symmetric, groups):
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(bits)) * torch.logspace(-3, 3, 8)
    pieces = weight.reshape(3, groups, -1)
    affine = from_range(pieces.amin(2), pieces.amax(2), bits=bits, symmetric=symmetric, signed=True, axis=0)
    whole = affine.dequantize(affine.quantize(weight)).reshape(pieces.shape)
    for row in range(3):
        for group in range(groups):
            piece = pieces[row, group]
            alone = from_range(piece.amin(), piece.amax(), bits=bits, symmetric=symmetric, signed=True)
            assert torch.equal(alone.dequantize(alone.quantize(piece)), whole[row, group])


def test_the_operator_of_the_graph_does_the_same_arithmetic_in_groups():
    weight = torch.randn(4, 6)
    pieces = weight.reshape(4, 2, 3)
    affine = from_range(pieces.amin(2), pieces.amax(2), bits=4, symmetric=True, signed=True, axis=0)
    found = torch.ops.leanly.fake_quantize(weight, affine.scale, affine.shift, 0, affine.low, affine.high)
    assert torch.equal(found, affine.dequantize(affine.quantize(weight)))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_an_empty_channel_and_a_huge_outlier_leave_the_others_alone(bits):
    weight = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    weight[2, 7] = 1e6
    affine = weight_affine(weight, bits, "channel")
    restored = affine.dequantize(affine.quantize(weight))
    assert restored[1].abs().max() == 0
    kept = [0, 3]
    alone = weight_affine(weight[kept], bits, "channel")
    assert torch.equal(restored[kept], alone.dequantize(alone.quantize(weight[kept])))


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_few_bits_of_a_weight_take_the_range_with_the_least_error(bits, granularity):
    weight = torch.randn(8, 400, generator=torch.Generator().manual_seed(bits))
    bound = weight.abs().amax(1) if granularity == "channel" else weight.abs().amax()
    axis = 0 if granularity == "channel" else -1
    widest = from_range(-bound, bound, bits=bits, symmetric=True, signed=True, narrow=True, axis=axis)
    chosen = weight_affine(weight, bits, granularity)
    errors = [((a.dequantize(a.quantize(weight)) - weight) ** 2).sum(1) for a in (chosen, widest)]
    assert (errors[0].sum() if axis < 0 else errors[0]).lt(0.9 * (errors[1].sum() if axis < 0 else errors[1])).all()


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=8))
def test_there_is_no_integer_of_what_is_no_number(values):
    affine, x = from_range(-1.0, 3.0, bits=8, symmetric=False, signed=True), torch.tensor(values)
    if bool(x.isnan().any()):
        with pytest.raises(SettingError, match="NaN has no integer"):
            affine.quantize(x)
    else:
        found = affine.quantize(x)
        assert int(found.min()) >= affine.low and int(found.max()) <= affine.high


@pytest.mark.parametrize("range_", [(5.0, -5.0), (torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5]))])
def test_a_range_that_ends_before_it_begins_is_refused(range_):
    with pytest.raises(SettingError, match="ends before it begins"):
        from_range(*range_, bits=8, symmetric=False, signed=True, axis=0)


@pytest.mark.parametrize(
    ("ends", "axis", "shape", "said"),
    [
        (torch.ones(4, 3), 0, (4, 8), r"scale of shape \(4, 3\) with axis=0 does not fit a tensor of shape \(4, 8\)"),
        (torch.ones(4, 3), 0, (5, 9), "does not fit"),
        (torch.ones(4, 3), 0, (9,), "does not fit"),
        (torch.ones(3), 0, (4, 3), "does not fit"),
        (torch.ones(3), 2, (4, 3), "axis=2 does not fit"),
        (torch.ones(3), -1, (4, 3), "axis=-1 does not fit"),
    ],
)
def test_a_scale_that_does_not_fit_is_refused(ends: torch.Tensor, axis: int, shape: tuple[int, ...], said: str):
    affine = from_range(-ends, ends, bits=4, symmetric=True, signed=True, axis=axis)
    for call, x in ((affine.quantize, torch.ones(shape)), (affine.dequantize, torch.ones(shape, dtype=torch.int32))):
        with pytest.raises(SettingError, match=said):
            call(x)


@pytest.mark.parametrize("range_", [(torch.zeros(2), torch.ones(3)), (torch.zeros(2, 1, 1), torch.ones(2, 1, 1))])
def test_a_range_of_no_shape_that_a_scale_has_is_refused(range_: tuple[torch.Tensor, torch.Tensor]):
    with pytest.raises(SettingError, match=r"a range from shape \(2,.*give both the same shape"):
        from_range(*range_, bits=8, symmetric=False, signed=True, axis=0)

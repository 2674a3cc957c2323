"""Streaming ranges: bounded memory, the same answer in one batch or many."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leanly.errors import DataError, SettingError
from leanly.graph.statistics import BINS, Histogram
from leanly.quantize.affine import from_range
from leanly.quantize.observers import entropy, minmax, mse, observer_named, percentile


def histogram_of(x: torch.Tensor, pieces: int = 1) -> Histogram:
    histogram = Histogram("x")
    for batch, piece in enumerate(x.chunk(pieces)):
        histogram.update(piece, batch)
    return histogram


def error_of(x: torch.Tensor, bounds: tuple[float, float], bits: int) -> float:
    affine = from_range(*(torch.tensor(b) for b in bounds), bits=bits, symmetric=False, signed=False)
    return float(((affine.dequantize(affine.quantize(x)) - x) ** 2).mean())


@settings(max_examples=30)
@given(st.integers(1, 20), st.floats(0.01, 100), st.integers(0, 1000))
def test_counts_are_kept_however_the_stream_is_cut(pieces, growth, seed):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.01, growth, 1000)
    histogram = histogram_of(x, pieces)
    centres, counts = histogram.bins()
    assert int(counts.sum()) == 1000 == histogram.count
    assert minmax(histogram, 8, False) == (float(x.min()), float(x.max()))
    width = float(x.abs().max()) * 2 / BINS  # bins double, so they are at most twice as wide as they need be
    assert float((centres * counts).sum() / 1000) == pytest.approx(float(x.mean()), abs=width)


def test_percentile_leaves_one_outlier_out():
    x = torch.cat([torch.randn(100_000, generator=torch.Generator().manual_seed(0)), torch.tensor([50.0])])
    low, high = percentile(histogram_of(x, 7), 8, False)
    assert 3 < high < 6 and -6 < low < -3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_is_no_worse_than_minmax(bits):
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(bits)) ** 3
    histogram = histogram_of(x, 5)
    assert error_of(x, mse(histogram, bits, False), bits) <= error_of(x, minmax(histogram, bits, False), bits) * 1.001
    if bits == 4:
        assert error_of(x, mse(histogram, bits, False), bits) < 0.5 * error_of(x, minmax(histogram, bits, False), bits)


def test_entropy_leaves_rare_outliers_out_and_keeps_what_is_even():
    generator = torch.Generator().manual_seed(0)
    rare = torch.cat([torch.randn(100_000, generator=generator), 40 * torch.rand(20, generator=generator)])
    low, high = entropy(histogram_of(rare, 3), 4, False)
    assert 2 < high < 20 and low < -2
    even = torch.rand(100_000, generator=generator)
    low, high = entropy(histogram_of(even, 3), 8, False)
    assert high > 0.95 and low >= 0


def test_entropy_of_a_constant_is_its_own_range():
    assert entropy(histogram_of(torch.full((100,), 3.0)), 8, False)[1] == pytest.approx(3.0, rel=1e-2)


def test_nan_names_tensor_and_batch():
    histogram = Histogram("layer1.relu")
    histogram.update(torch.ones(3), 0)
    with pytest.raises(DataError, match=r"layer1\.relu, calibration batch 4"):
        histogram.update(torch.tensor([1.0, float("nan")]), 4)


def test_constant_zero_has_a_range():
    low, high = mse(histogram_of(torch.zeros(10)), 8, False)
    affine = from_range(torch.tensor(low), torch.tensor(high), bits=8, symmetric=False, signed=False)
    assert float(affine.dequantize(affine.quantize(torch.zeros(())))) == 0.0


def test_unknown_observer_lists_the_known():
    with pytest.raises(SettingError, match="mse, percentile, entropy, minmax"):
        observer_named("median")

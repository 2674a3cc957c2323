"""Percentiles by MLPerf LoadGen's rule, and the pieces of the bootstrap."""

import numpy as np
import pytest
from scipy.stats import binom

from leanly.measurement.bootstrap import (
    acceleration,
    bca_end,
    bca_level,
    bias_correction,
    loadgen_percentile,
    median_ends,
)


@pytest.mark.parametrize(("percent", "queries"), [(90, 64), (99, 662), (99.9, 6636)])
def test_fewest_queries_of_loadgen(percent: float, queries: int) -> None:
    assert loadgen_percentile([1.0] * (queries - 1), percent) is None
    assert loadgen_percentile([1.0] * queries, percent) == 1.0


def test_percentile_drops_the_slowest_but_one() -> None:
    # 64 queries allow one over: the largest is the figure, nothing is dropped yet.
    assert loadgen_percentile(list(range(64)), 90) == 63
    samples = np.random.default_rng(0).permutation(1000).tolist()
    over = max(t for t in range(1000) if binom.cdf(t, 1000, 0.1) <= 0.01)
    assert loadgen_percentile(samples, 90) == sorted(samples)[: 1000 - (over - 1)][-1]


def test_percentile_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    truth = -np.log(0.1)
    found = [loadgen_percentile(random.exponential(size=200).tolist(), 90) for _ in range(500)]
    assert np.mean([value is not None and value >= truth for value in found]) > 0.97


def test_median_interval_covers_the_truth() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = median_ends(random.normal(1, 0.1, 20).tolist(), 0.95)
        hits += low <= 1 <= high
    assert hits / 200 > 0.90


def test_level_is_the_inverse_of_the_end() -> None:
    draws = np.random.default_rng(0).gamma(3, size=4000)
    z0, a = bias_correction(draws, 2.9), 0.03
    for level in (0.05, 0.5, 0.95):
        assert bca_level(draws, bca_end(draws, level, z0, a), z0, a) == pytest.approx(level, abs=0.002)


def test_without_bias_or_skew_bca_is_the_percentile_method() -> None:
    draws = np.linspace(-1, 1, 4001)
    assert bias_correction(draws, 0.0) == pytest.approx(0, abs=1e-9)
    assert bca_end(draws, 0.975, 0.0, 0.0) == pytest.approx(np.quantile(draws, 0.975))
    assert acceleration(np.array([1.0, 2.0, 3.0])) == pytest.approx(0)
    assert acceleration(np.ones(5)) == 0

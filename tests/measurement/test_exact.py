"""The exact paired test: its size, its power, and that it agrees with brute force."""

import itertools

import numpy as np
import pytest
from scipy.special import xlogy
from scipy.stats import binom, multinomial

from leanly.measurement.exact import exact_p_above, exact_p_below, tango_bound, tango_score

ALPHA = 0.05


def rejection_rate(n: int, discordant: float, drop: float, max_drop: float) -> float:
    """Return P(the test rejects): exact given the discordant count, that count taken at even quantiles for large n."""
    if n <= 100:
        counts = np.arange(n + 1)
        weights = binom.pmf(counts, n, discordant)
    else:
        counts = binom.ppf((np.arange(15) + 0.5) / 15, n, discordant).astype(int)
        weights = np.full(15, 1 / 15)
    lost_share = (discordant + drop) / (2 * discordant)
    found: dict[int, float] = {}
    for count in set(counts.tolist()):
        low, high = -1, count  # the largest number of lost examples that still rejects
        while low < high:
            middle = (low + high + 1) // 2
            inside = exact_p_below(middle, count - middle, n, max_drop, 1 - ALPHA) <= ALPHA
            low, high = (middle, high) if inside else (low, middle - 1)
        found[count] = float(binom.cdf(low, count, lost_share)) if low >= 0 else 0.0
    return float(sum(weight * found[count] for weight, count in zip(weights, counts.tolist(), strict=True)))


@pytest.mark.parametrize(
    ("n", "discordant", "max_drop"),
    [
        (50, 0.06, 0.05),
        (50, 0.15, 0.05),
        (50, 0.4, 0.05),
        (50, 0.3, 0.0),
        (50, 0.2, -0.1),
        (500, 0.02, 0.01),
        (500, 0.06, 0.02),
    ],
)
def test_error_at_the_boundary_is_at_most_the_level(n: int, discordant: float, max_drop: float) -> None:
    quantiles = 0.004 if n > 100 else 0.0
    assert rejection_rate(n, discordant, max_drop, max_drop) <= ALPHA + quantiles


def test_at_large_n_the_level_is_used_up_and_not_exceeded() -> None:
    assert 0.045 < rejection_rate(5000, 0.02, 0.005, 0.005) <= ALPHA + 0.004


@pytest.mark.parametrize(("n", "max_drop"), [(5000, 0.004972), (872, 0.01191)])
def test_power_is_what_the_resolvable_drop_promises(n: int, max_drop: float) -> None:
    # 872 rows have 17 discordant examples: there the steps between outcomes cost some of the 80 %.
    assert 0.72 < rejection_rate(n, 0.02, 0.0, max_drop) < 0.84


@pytest.mark.parametrize(
    ("lost", "gained", "n", "max_drop"),
    [(1, 1, 30, 0.1), (2, 4, 30, 0.05), (0, 1, 20, 0.1), (3, 1, 25, 0.2), (0, 0, 20, 0.05), (2, 6, 20, -0.1)],
)
def test_p_value_against_brute_force(lost: int, gained: int, n: int, max_drop: float) -> None:
    pairs = [(x, y) for x, y in itertools.product(range(n + 1), repeat=2) if x + y <= n]
    x, y = np.array(pairs).T
    extreme = tango_score(x, y, n, max_drop) <= float(tango_score(lost, gained, n, max_drop)) + 1e-9
    outcomes = np.stack([x, y, n - x - y], axis=1)[extreme]
    # The same nuisance interval as Berger and Boos's, by another route: the binomial tails themselves.
    error = ALPHA / 1000
    shares = np.linspace(abs(max_drop), 1, 1500)
    count = lost + gained
    kept = (binom.sf(count - 1, n, shares) > error / 2) & (binom.cdf(count, n, shares) > error / 2)
    worst = max(
        multinomial.pmf(outcomes, n, [(s + max_drop) / 2, (s - max_drop) / 2, 1 - s]).sum() for s in shares[kept]
    )
    assert exact_p_below(lost, gained, n, max_drop, 1 - ALPHA) == pytest.approx(worst + error, rel=0.01)


def test_score_rises_with_lost_among_the_discordant() -> None:
    for n, drop in itertools.product((10, 50), (0.0, 0.01, 0.2, 0.9, -0.05, -0.5)):
        for count in range(n + 1):
            lost = np.arange(count + 1)
            assert (np.diff(tango_score(lost, count - lost, n, drop)) >= -1e-12).all()


def test_score_without_discordance_is_the_binomial_one() -> None:
    assert float(tango_score(0, 0, 100, 0.04)) == pytest.approx(-np.sqrt(100 * 0.04 / 0.96))
    assert float(tango_score(0, 0, 100, 0.0)) == 0


@pytest.mark.parametrize(("lost", "gained", "drop"), [(7, 3, 0.02), (7, 3, -0.02), (0, 4, 0.1), (9, 0, 0.05)])
def test_score_uses_the_likeliest_point_under_the_null(lost: int, gained: int, drop: float) -> None:
    n = 60
    lost_shares = np.linspace(max(drop, 0) + 1e-9, (1 + drop) / 2 - 1e-9, 400_001)
    gained_shares = lost_shares - drop
    rest = n - lost - gained
    chance = xlogy(lost, lost_shares) + xlogy(gained, gained_shares) + xlogy(rest, 1 - lost_shares - gained_shares)
    both = (lost_shares + gained_shares)[np.argmax(chance)]
    expected = (lost - gained - n * drop) / np.sqrt(n * (both - drop**2))
    assert float(tango_score(lost, gained, n, drop)) == pytest.approx(expected, abs=1e-4)


def test_bound_solves_the_score_equation() -> None:
    for lost, gained, n in ((5, 3, 50), (0, 0, 50), (100, 90, 10_000), (50, 0, 50)):
        bound = tango_bound(lost, gained, n, 0.95)
        assert float(tango_score(lost, gained, n, bound)) == pytest.approx(-1.6449, abs=1e-3) or bound > 0.999


def test_identical_models_need_rows_all_the_same() -> None:
    assert exact_p_below(0, 0, 50, 0.05, 0.95) == pytest.approx(0.95**50, abs=2e-4)
    assert exact_p_below(0, 0, 100, 0.05, 0.95) < ALPHA


def test_above_is_the_mirror_of_below() -> None:
    assert exact_p_above(30, 3, 200, 0.05, 0.95) == exact_p_below(3, 30, 200, -0.05, 0.95)
    # What is left is the Berger-Boos error, a thousandth of the level.
    assert exact_p_above(60, 3, 200, 0.05, 0.95) == pytest.approx(5e-5, rel=0.01)


@pytest.mark.parametrize(("max_drop", "expected"), [(1.5, 0.0), (-1.0, 1.0)])
def test_boundaries_outside_what_is_possible(max_drop: float, expected: float) -> None:
    assert exact_p_below(3, 3, 20, max_drop, 0.95) == expected

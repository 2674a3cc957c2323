"""Coverage on simulated data with known truth: latency ratios under drift, drops of any metric."""

import math

import numpy as np
import pytest

from leanly.errors import DataError
from leanly.measurement.records import Latency
from leanly.measurement.statistics import (
    BOOTSTRAP,
    EXACT,
    confidence_reached,
    paired_drop,
    paired_drop_bootstrap,
    paired_drop_exact,
    ratio_interval,
    ratio_intervals,
    resolvable_drop,
    rows_needed,
)
from leanly.metrics import METRICS, Metric


def timed(random: np.random.Generator, seconds: float, common: np.ndarray, calls: int = 10) -> Latency:
    """Simulate blocks: a shared drift, a block's own effect, and calls that resemble the one before."""
    blocks = []
    for level in common * np.exp(random.normal(0, 0.02, len(common))):
        noise = random.normal(size=calls)
        for index in range(1, calls):
            noise[index] = 0.8 * noise[index - 1] + 0.6 * noise[index]
        blocks.append(tuple(seconds * level * np.exp(0.05 * noise)))
    return Latency(1, tuple(blocks))


@pytest.mark.parametrize(("rounds", "drift"), [(10, 0.0), (20, 0.0), (20, 0.2)])
def test_latency_ratio_covers_the_truth(rounds: int, drift: float) -> None:
    random, hits, mean_hits = np.random.default_rng(1), 0, 0
    for _ in range(150):
        common = 1 + drift * np.arange(rounds) / rounds + np.cumsum(random.normal(0, drift / rounds, rounds))
        slow = {size: timed(random, 1.25 * size, common) for size in (1, 16)}
        fast = {size: timed(random, 1.0 * size, common) for size in (1, 16)}
        ratios, mean = ratio_intervals(slow, fast)
        hits += ratios[1].low <= 1.25 <= ratios[1].high
        mean_hits += mean.low <= 1.25 <= mean.high
        assert ratios[1].low <= ratios[1].value <= ratios[1].high
    # 0.95 less three standard errors of 150 trials
    assert hits / 150 > 0.895
    assert mean_hits / 150 > 0.895


def test_calls_are_not_counted_as_independent() -> None:
    random = np.random.default_rng(2)
    short = [timed(random, 1.0, np.ones(10), calls=10) for _ in range(2)]
    long = [timed(random, 1.0, np.ones(10), calls=400) for _ in range(2)]
    widths = [interval.high - interval.low for interval in (ratio_interval(*short), ratio_interval(*long))]
    # Forty times the calls can't make the interval shrink by more than the calls' own share of the noise.
    assert widths[1] > widths[0] / 5


def test_geometric_mean_is_of_the_ratios() -> None:
    flat = {1: Latency(1, ((2.0,), (2.0,))), 16: Latency(16, ((8.0,), (8.0,)))}
    other = {1: Latency(1, ((1.0,), (1.0,))), 16: Latency(16, ((1.0,), (1.0,)))}
    ratios, mean = ratio_intervals(flat, other)
    assert (ratios[1].value, ratios[16].value) == pytest.approx((2, 8))
    assert (mean.value, mean.low, mean.high) == pytest.approx((4, 4, 4))
    assert mean.inverse().value == pytest.approx(0.25)


def test_only_rounds_in_common_count() -> None:
    long, short = Latency(1, ((1.0,), (1.0,), (9.0,))), Latency(1, ((2.0,), (2.0,)))
    assert ratio_interval(long, short).value == pytest.approx(0.5)
    with pytest.raises(DataError, match="pair up"):
        ratio_intervals({1: long}, {2: short})


def test_resolvable_drop_of_the_design() -> None:
    found = [100 * resolvable_drop(n, discordant=0.02, confidence=0.95, power=0.8) for n in (10_000, 5_000, 872)]
    assert found == pytest.approx([0.35, 0.50, 1.19], abs=0.005)


def test_rows_and_confidence_invert_the_resolvable_drop() -> None:
    rows = rows_needed(0.01)
    assert resolvable_drop(rows) <= 0.01 < resolvable_drop(rows - 2)
    assert confidence_reached(872, resolvable_drop(872)) == pytest.approx(0.95)


def test_exact_drop_of_known_counts() -> None:
    reference, candidate = np.ones(1000), np.ones(1000)
    reference[:20] = 0
    candidate[10:40] = 0  # 20 lost, 10 gained
    found = paired_drop_exact(reference, candidate, 0.03)
    assert found.drop.value == pytest.approx(0.01)
    assert found.drop.low < found.lower < 0.01 < found.upper < found.drop.high
    assert found.test == EXACT
    assert found.p_below < 0.01 < found.p_above
    assert paired_drop_exact(reference, candidate, 0.0).p_above < 0.05


def test_arrays_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(DataError, match="pair up"):
        paired_drop_exact([1, 0, 1], [1, 0], 0.01)
    with pytest.raises(DataError, match="pair up"):
        paired_drop_exact([], [], 0.01)


def test_metric_decides_the_test() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(60, 3)), random.integers(0, 3, 60)
    assert paired_drop(METRICS["accuracy"], logits, logits, labels, 0.01).test == EXACT
    values = random.normal(size=60)
    assert paired_drop(METRICS["mse"], values, values + 0.1, values, 0.01).test == BOOTSTRAP


def test_bootstrap_covers_the_truth_and_keeps_its_level() -> None:
    random = np.random.default_rng(0)
    truth, covered, rejected, two_sided, trials = 0.15**2, 0, 0, 0, 120
    for seed in range(trials):
        targets = random.gamma(3, size=200)
        reference = targets + random.normal(0, 0.3, 200)
        candidate = reference + random.normal(0, 0.15, 200)
        found = paired_drop_bootstrap(METRICS["mse"], reference, candidate, targets, truth, resamples=200, seed=seed)
        covered += truth <= found.upper
        two_sided += found.drop.low <= truth <= found.drop.high
        rejected += found.p_below <= 0.05
    assert covered / trials > 0.90
    assert two_sided / trials > 0.89
    assert rejected / trials < 0.11


@pytest.mark.parametrize(("n", "certified"), [(100, False), (298, False), (300, True)])
def test_no_row_that_differs_is_no_proof_on_few_rows(n: int, certified: bool) -> None:
    """The truth that hides most often: one in 101 predictions is wrong, and costs a point of the metric."""
    labels = np.random.default_rng(0).integers(0, 2, n)
    found = paired_drop_bootstrap(METRICS["f1"], labels, labels, labels, 0.01, resamples=100)
    assert (found.p_below <= 0.05 and found.upper < 0.01) == certified
    assert found.p_below == pytest.approx(0.99**n, rel=0.2)


def test_predictions_that_agree_prove_much_where_the_metric_shows_how_far_they_are_apart() -> None:
    outputs = np.random.default_rng(7).normal(size=(60, 8)).astype(np.float32)

    def cosine(found: np.ndarray, expected: np.ndarray) -> float:
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        return float(((found * expected).sum(1) / lengths).mean())

    again = outputs * (1 + np.float32(1e-7))
    for metric in (Metric("cosine", cosine), METRICS["mse"]):
        found = paired_drop_bootstrap(metric, outputs, again, outputs, 0.01, resamples=100)
        assert found.p_below <= 0.05 and found.upper < 0.01

    def right(found: np.ndarray, labels: np.ndarray) -> float:
        return float((found.argmax(1) == labels).mean())

    found = paired_drop_bootstrap(Metric("own accuracy", right), outputs, again, outputs.argmax(1), 0.01, resamples=100)
    assert found.p_below > 0.05 and found.upper > 0.01


def test_bootstrap_agrees_with_the_exact_test_on_accuracy() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 800)
    reference = np.where(random.random(800) < 0.1, 1 - labels, labels)
    candidate = np.where(random.random(800) < 0.04, 1 - reference, reference)
    logits = [np.eye(2)[classes] for classes in (reference, candidate)]
    accuracy = METRICS["accuracy"]
    exact = paired_drop(accuracy, *logits, labels, 0.05)
    booted = paired_drop_bootstrap(Metric("accuracy", accuracy.function), *logits, labels, 0.05, resamples=1000)
    assert booted.drop.value == pytest.approx(exact.drop.value)
    assert booted.upper == pytest.approx(exact.upper, abs=0.004)
    assert booted.lower == pytest.approx(exact.lower, abs=0.004)


def test_bootstrap_takes_rows_of_structured_predictions_together() -> None:
    targets = np.arange(100.0)
    seen: list[bool] = []

    def score(predictions: dict, wanted: np.ndarray) -> float:
        seen.append(bool((predictions["value"][:, 0] == wanted).all()) and predictions["table"].shape == (7,))
        return float(wanted.mean() * predictions["table"].mean())

    reference, candidate = ({"value": targets[:, None], "table": np.full(7, value)} for value in (0.0, 1.0))
    metric = Metric("mine", score)
    paired_drop_bootstrap(metric, reference, candidate, targets, 0.1, resamples=50)
    assert len(seen) > 100
    assert all(seen)


def test_bootstrap_is_the_same_again() -> None:
    values = np.random.default_rng(0).normal(size=(3, 50))
    metric = METRICS["mse"]
    first, second = (paired_drop_bootstrap(metric, *values, 0.1, resamples=100, seed=4) for _ in range(2))
    assert first == second


def test_too_few_rows_and_a_metric_that_fails_are_refused() -> None:
    few = np.arange(10.0)
    with pytest.raises(DataError, match="10 rows are too few"):
        paired_drop_bootstrap(METRICS["mse"], few, few, few, 0.1)

    def picky(predictions: np.ndarray, targets: np.ndarray) -> float:
        return math.nan if len(np.unique(targets)) < len(targets) else 1.0

    many = np.arange(40.0)
    with pytest.raises(DataError, match="resamples"):
        paired_drop_bootstrap(Metric("picky", picky), many, many, many, 0.1, resamples=40)

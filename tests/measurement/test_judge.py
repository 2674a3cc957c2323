"""Verdicts and their sentences, the walk's error rate, and what is said before any work."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from leanly.budget import Budget
from leanly.measurement.judge import all_of, can_certify, certify_walk, judge, within
from leanly.measurement.records import Latency, Measurement, Verdict
from leanly.measurement.statistics import rows_needed
from leanly.metrics import METRICS

ACCURACY = METRICS["accuracy"]


def predictions(n: int, wrong: slice) -> np.ndarray:
    """Return logits that are right for label 1 everywhere but in `wrong`."""
    logits = np.tile([0.0, 1.0], (n, 1))
    logits[wrong] = [1.0, 0.0]
    return logits


@functools.cache
def verdict(n: int, lost: int, gained: int, budget: Budget) -> Verdict:
    return judge(
        predictions(n, slice(0, gained)),
        predictions(n, slice(gained, gained + lost)),
        np.ones(n, int),
        ACCURACY,
        budget,
    )


def test_pass_with_figures_in_the_sentence() -> None:
    found = verdict(6000, 40, 33, Budget(max_drop="1%"))
    assert found.outcome == "pass"
    assert found.reason == ("drop 0.12 points, 95 % upper bound 0.36 <= 1.00 allowed, n = 6,000, exact paired test")
    assert found.drop is not None and found.drop.value == pytest.approx(7 / 6000)
    assert found.p_value is not None and found.p_value < 0.001


def test_fail_when_the_drop_is_shown_to_exceed() -> None:
    found = verdict(2000, 100, 10, Budget(max_drop="1%"))
    assert found.outcome == "fail"
    assert "lower bound" in found.reason and "> 1.00 allowed" in found.reason


def test_undecided_when_the_data_show_neither() -> None:
    found = verdict(200, 2, 1, Budget(max_drop="1%"))
    assert found.outcome == "undecided"
    assert "enclose 1.00 allowed" in found.reason


def test_a_larger_budget_turns_undecided_into_pass() -> None:
    assert verdict(200, 2, 1, Budget(max_drop="10%")).outcome == "pass"


def test_equal_accuracies_are_no_proof() -> None:
    # McNemar's test would find no difference here; twenty rows show nothing about one point.
    assert verdict(20, 1, 1, Budget(max_drop="1%")).outcome == "undecided"


def test_judge_never_passes_more_often_than_its_level() -> None:
    random, passes, n, trials = np.random.default_rng(0), 0, 300, 300
    budget = Budget(max_drop=0.05)
    for _ in range(trials):
        lost, gained, _ = random.multinomial(n, [0.07, 0.02, 0.91])
        passes += verdict(n, lost, gained, budget).outcome == "pass"
    assert passes / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)


def test_other_metrics_speak_in_their_own_units() -> None:
    targets = np.random.default_rng(0).normal(size=200)
    found = judge(targets, targets + 0.01, targets, METRICS["mse"], Budget(max_drop=0.1))
    assert found.outcome == "pass"
    assert found.reason.startswith("drop 0.0001 in mse, 95 % upper bound 0.0001 <= 0.1 allowed")
    assert "bootstrap" in found.test


def walked(
    trunk: list[str], branches: list[list[str]], p_values: dict[str, float], level: float = 0.05
) -> tuple[list[str], list[str]]:
    """Walk where each candidate has a p-value; return who was judged, in order, and who passed."""
    asked: list[str] = []
    passed: list[str] = []

    def certify(candidate: str, level: float) -> Verdict:
        asked.append(candidate)
        if p_values[candidate] <= level:
            passed.append(candidate)
        return Verdict("pass" if p_values[candidate] <= level else "undecided", "")

    certify_walk(trunk, branches, level, certify)
    return asked, passed


def test_the_trunk_stops_everything() -> None:
    p_values = {"a": 0.05, "b": 0.051, "c": 0.0, "d": 0.0}
    assert walked(["a", "b", "c"], [["d"]], p_values) == (["a", "b"], ["a"])


def test_a_branch_stops_only_itself() -> None:
    p_values = {"a": 0.0, "b": 0.03, "c": 0.0, "d": 0.02, "e": 0.02, "f": 0.2}
    asked, passed = walked(["a"], [["b", "c"], ["d", "e", "f"]], p_values)
    assert (asked, passed) == (["a", "b", "d", "e", "f"], ["a", "d", "e"])


def test_a_branch_that_ends_leaves_its_level_to_what_had_stopped() -> None:
    p_values = {"b": 0.03, "c": 0.04, "d": 0.02}
    assert walked([], [["b", "c"], ["d"]], p_values) == (["b", "d", "b", "c"], ["d", "b", "c"])
    assert walked([], [["d"], ["b", "c"]], p_values)[1] == ["d", "b", "c"]
    assert walked([], [[], ["b", "c"]], p_values)[1] == ["b", "c"], "an empty branch has no share"


@pytest.mark.parametrize(
    ("trunk", "branches"),
    [
        ([0.0, 0.025, 0.05, 0.07], []),
        ([0.0], [[0.05, 0.06], [0.05, 0.07]]),
        ([0.0], [[0.0, 0.05], [0.02, 0.05]]),
        ([], [[0.0], [0.05, 0.05]]),
    ],
)
def test_a_walk_certifies_what_is_too_bad_no_more_often_than_its_level(
    trunk: list[float], branches: list[list[float]]
) -> None:
    # points lost, 5 allowed: an error is a pass of what loses 5 or more; every candidate has rows of its own
    random, n, trials, errors, good = np.random.default_rng(0), 400, 200, 0, 0

    def certify(candidate: list[int | float], level: float) -> Verdict:
        drop, *rows = candidate
        if not rows:
            candidate.extend(random.multinomial(n, [drop + 0.01, 0.01, 0.98 - drop])[:2].tolist())
        lost, gained = (int(count) for count in candidate[1:])
        found = verdict(n, lost, gained, Budget(max_drop=0.05, confidence=1 - level))
        if found.outcome == "pass":
            passed.append(drop)
        return found

    for _ in range(trials):
        passed: list[float] = []
        fresh = [[drop] for drop in trunk], [[[drop] for drop in branch] for branch in branches]
        certify_walk(*fresh, 0.05, certify)
        errors += any(drop >= 0.05 for drop in passed)
        good += 0.0 in passed
    assert errors / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    assert good / trials > 0.9


def test_enough_rows_need_no_warning() -> None:
    assert can_certify(10_000, Budget(max_drop=0.0036), ACCURACY) is None


def test_too_few_rows_name_three_remedies() -> None:
    text = can_certify(872, Budget(max_drop="1%"), ACCURACY)
    assert text is not None
    assert text.startswith("872 rows certify a drop of 1.19 points at best, not 1.00")
    assert f"give {rows_needed(0.01):,} rows, allow 1.19 points or ask for a confidence of 89 %" in text
    assert can_certify(872, Budget(max_drop="1%", confidence=0.89), ACCURACY) is None
    assert can_certify(rows_needed(0.01), Budget(max_drop="1%"), ACCURACY) is None


def test_a_drop_of_nothing_and_no_rows_are_answered() -> None:
    assert can_certify(1000, Budget(max_drop=0), ACCURACY)
    assert can_certify(0, Budget(max_drop="1%"), ACCURACY)


def test_other_metrics_need_a_least_number_of_rows() -> None:
    assert can_certify(30, Budget(), METRICS["mse"]) is None
    assert "at least 30 rows" in (can_certify(29, Budget(), METRICS["mse"]) or "")


def measurement(seconds: float, size: int = 1, bytes_: int = 1000, spread: float = 0.01) -> Measurement:
    random = np.random.default_rng(int(seconds * 1e7))
    blocks = tuple((float(seconds * np.exp(random.normal(0, spread))),) for _ in range(20))
    return Measurement("onnxruntime", "int8", 1, {size: Latency(size, blocks)}, 0.1, None, bytes_)


def test_bytes_are_counted_not_tested() -> None:
    assert within(measurement(0.001), Budget(bytes=1000)).outcome == "pass"
    found = within(measurement(0.001, bytes_=2_000_000), Budget(bytes="1MB"))
    assert (found.outcome, found.reason) == ("fail", "artifact 2,000,000 bytes > 1,000,000 allowed")


@pytest.mark.parametrize(("limit", "outcome"), [("2ms", "pass"), ("0.5ms", "fail"), ("1ms", "undecided")])
def test_latency_is_judged_by_its_interval(limit: str, outcome: str) -> None:
    found = within(measurement(0.001, spread=0.05), Budget(latency=limit))
    assert found.outcome == outcome
    assert found.reason.startswith("batch 1: median ") and " ms" in found.reason


@pytest.mark.parametrize(("wanted", "outcome"), [("1.5x", "pass"), ("3x", "fail"), ("2x", "undecided")])
def test_speedup_is_judged_by_its_interval(wanted: str, outcome: str) -> None:
    found = within(measurement(0.001, spread=0.05), Budget(speedup=wanted), measurement(0.002, spread=0.05))
    assert found.outcome == outcome


def test_slower_at_one_batch_size_is_no_speedup() -> None:
    fast, slow = measurement(0.001), measurement(0.004)
    candidate = replace(fast, latency={1: fast.latency[1], 16: replace(slow.latency[1], batch_size=16)})
    middle = measurement(0.003)
    reference = replace(slow, latency={1: slow.latency[1], 16: replace(middle.latency[1], batch_size=16)})
    found = within(candidate, Budget(speedup=1.2), reference)
    assert found.outcome == "fail"
    assert "batch 16" in found.reason


def test_speedup_without_a_reference_is_undecided() -> None:
    assert within(measurement(0.001), Budget(speedup=2)).outcome == "undecided"


def test_nothing_asked_passes() -> None:
    assert within(measurement(0.001), Budget()).outcome == "pass"


def test_the_worst_outcome_counts_and_the_tested_figures_stay() -> None:
    tested = verdict(6000, 40, 33, Budget(max_drop="1%"))
    both = all_of([Verdict("pass", "a"), tested])
    assert (both.outcome, both.drop, both.n) == ("pass", tested.drop, 6000)
    assert all_of([tested, Verdict("undecided", "b")]).outcome == "undecided"
    assert all_of([Verdict("undecided", "b"), Verdict("fail", "c")]).outcome == "fail"

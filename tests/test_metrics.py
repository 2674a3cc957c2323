import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from leanly.errors import DataError
from leanly.metrics import METRICS, Metric, first_output, resolve_metric

random = np.random.default_rng(0)
LOGITS = random.normal(size=(50, 7))
LABELS = random.integers(0, 7, size=50)
VALUES = random.normal(size=50).round(1)
WANTED = (VALUES + random.normal(size=50)).round(1)


def score(name, predictions, targets):
    return resolve_metric(name).score(predictions, targets)


def test_against_scikit_learn_and_scipy():
    guessed = LOGITS.argmax(1)
    expected = {
        "accuracy": (LOGITS, LABELS, sklearn.metrics.accuracy_score(LABELS, guessed)),
        "top5": (LOGITS, LABELS, sklearn.metrics.top_k_accuracy_score(LABELS, LOGITS, k=5, labels=range(7))),
        "f1": (LOGITS, LABELS, sklearn.metrics.f1_score(LABELS, guessed, average="macro")),
        "mse": (VALUES, WANTED, -sklearn.metrics.mean_squared_error(WANTED, VALUES)),
        "mae": (VALUES, WANTED, -sklearn.metrics.mean_absolute_error(WANTED, VALUES)),
        "r2": (VALUES, WANTED, sklearn.metrics.r2_score(WANTED, VALUES)),
        "pearson": (VALUES, WANTED, scipy.stats.pearsonr(VALUES, WANTED).statistic),
        "spearman": (VALUES, WANTED, scipy.stats.spearmanr(VALUES, WANTED).statistic),
    }
    assert set(expected) == set(METRICS)
    for name, (predictions, targets, value) in expected.items():
        assert score(name, predictions, targets) == pytest.approx(value, abs=1e-12), name


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.data())
def test_f1_of_few_rows_counts_only_classes_that_occur(labels, data):
    guessed = data.draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels)))
    expected = sklearn.metrics.f1_score(labels, guessed, average="macro", zero_division=0)
    assert score("f1", np.eye(4)[guessed], np.array(labels)) == pytest.approx(expected)


def test_per_example_is_what_the_mean_is_taken_of():
    for name in ("accuracy", "top5"):
        metric = METRICS[name]
        assert metric.per_example is not None
        rows = metric.per_example(LOGITS, LABELS)
        assert set(np.unique(rows)) <= {0, 1}
        assert rows.mean() == metric.score(LOGITS, LABELS)
    assert METRICS["f1"].per_example is None


def test_binary_logits_are_split_at_zero():
    logits = np.array([-1.0, 0.5, 2.0, -3.0])
    assert score("accuracy", logits, np.array([0, 1, 0, 0])) == 0.75
    assert score("accuracy", logits[:, None], np.array([[0], [1], [0], [0]])) == 0.75


def test_the_first_output_is_looked_at_and_logits_before_it():
    assert first_output({"loss": 1, "logits": 2}) == 2
    assert first_output({"hidden": 1, "other": 2}) == 1
    assert first_output(((5, 6), 7)) == 5
    assert score("accuracy", {"loss": np.zeros(3), "logits": np.eye(3)}, np.arange(3)) == 1.0
    with pytest.raises(DataError, match="returns no tensor"):
        first_output(())


def test_a_column_and_a_row_of_numbers_do_not_broadcast():
    assert score("mse", np.array([[1.0], [2.0]]), np.array([1.0, 4.0])) == -2.0
    assert score("pearson", VALUES[:, None], WANTED) == pytest.approx(score("pearson", VALUES, WANTED))


def test_a_model_that_says_always_the_same_has_no_correlation():
    assert score("pearson", np.ones(5), np.arange(5)) == 0.0
    assert score("spearman", np.ones(5), np.arange(5)) == 0.0


@pytest.mark.parametrize("name", ["r2", "pearson", "spearman"])
def test_targets_that_are_all_the_same(name):
    with pytest.raises(DataError, match=r"all targets are the same.*Where: targets.*mse"):
        score(name, np.arange(5.0), np.ones(5))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_nan_predictions_are_named_by_row(name):
    predictions = (LOGITS if name in ("accuracy", "top5", "f1") else VALUES).copy()
    predictions[3] = math.nan
    with pytest.raises(DataError, match=r"predictions hold NaN.*Where: row 3 .*What to do: look for"):
        score(name, predictions, LABELS)


@pytest.mark.parametrize(
    ("name", "predictions", "targets", "why"),
    [
        ("accuracy", LOGITS, np.eye(7)[LABELS], "one label a row.*argmax"),
        ("accuracy", LOGITS, LABELS[:-1], r"shape \(49,\) for 50 predictions"),
        ("accuracy", np.zeros((2, 3, 4)), np.zeros(2), r"logits \(rows, classes\).*your own metric"),
        ("accuracy", np.zeros((0, 3)), np.zeros(0), "no predictions"),
        ("top5", LOGITS[:, :5], LABELS % 5, "more than 5 classes.*accuracy"),
        ("mse", VALUES, WANTED[:-1], r"predictions have shape \(50,\) and targets \(49,\)"),
        ("pearson", LOGITS, LOGITS, "one number a row"),
    ],
)
def test_shapes_that_do_not_fit(name, predictions, targets, why):
    with pytest.raises(DataError, match=why):
        score(name, predictions, targets)


def test_unknown_name_shows_the_nearest():
    with pytest.raises(DataError, match=r"no metric named 'acuracy'.*Where: Task.metric.*did you mean 'accuracy'"):
        resolve_metric("acuracy")


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        (0.9, "isn't callable"),
        (None, "isn't callable"),
        (lambda predictions: 0, "two arguments"),
        (lambda predictions, targets, *, k: 0, "two arguments"),
        (Metric, "is a class"),
    ],
)
def test_what_can_not_be_called(metric, why):
    with pytest.raises(DataError, match=f"{why}.*Where: Task.metric.*What to do"):
        resolve_metric(metric)


def test_a_callable_of_the_user_bears_its_own_name():
    def balanced(predictions, targets):
        return 0.5

    metric = resolve_metric(balanced)
    assert (metric.name, metric.per_example, metric.score(0, 0)) == ("balanced", None, 0.5)
    assert resolve_metric(metric) is metric


def test_a_builtin_without_a_signature_is_let_through():
    assert resolve_metric(max).score(1, 2) == 2.0


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.array(0.5), np.array([0.5])])
def test_one_number_in_any_dress_is_a_score(value):
    assert resolve_metric(lambda predictions, targets: value).score(0, 0) == pytest.approx(float(np.ravel(value)[0]))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (math.nan, "returned nan.*division by zero"),
        (math.inf, "returned inf"),
        (np.array(math.nan), "returned nan"),
        ("0.9", "returned '0.9' .str., which is not a number.*return one float"),
        (None, "not a number"),
        (True, "not a number"),
        (np.zeros(3), "not a number"),
    ],
)
def test_a_score_that_is_no_number(value, why):
    def mine(predictions, targets):
        return value

    with pytest.raises(DataError, match=why) as caught:
        resolve_metric(mine).score(0, 0)
    assert "test_metrics.py:" in caught.value.where
    assert "'mine'" in caught.value.what


def test_a_metric_that_raises_is_told_with_its_line():
    def mine(predictions, targets):
        raise ValueError("no such class")

    with pytest.raises(DataError, match="metric 'mine' failed with ValueError: no such class") as caught:
        resolve_metric(mine).score(0, 0)
    assert "test_metrics.py:" in caught.value.where

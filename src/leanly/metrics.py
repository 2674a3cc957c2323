"""Metric: `(predictions, targets) -> float` over a whole split, higher is better; and the ones known by name."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from leanly.errors import DataError
from leanly.suggest import suggestion

CLASSIFICATION = ("accuracy", "top5", "f1")


@dataclass(frozen=True)
class Metric:
    """A figure of merit over a whole split, higher is better.

    Args:
        name: how it is called in reports.
        function: takes predictions (numpy, in the model's own output structure) and targets (numpy), gives a float.
        per_example: the same as a 0 or 1 for each row, where the metric is their mean; None elsewhere.
    """

    name: str
    function: Callable[[Any, Any], Any]
    per_example: Callable[[Any, Any], np.ndarray] | None = None

    def score(self, predictions: Any, targets: Any) -> float:
        """Return the metric over a whole split.

        Raises:
            DataError: it fails, or gives something that is not a finite number.
        """
        try:
            value = self.function(predictions, targets)
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"metric {self.name!r} failed with {type(error).__name__}: {error}",
                where=_line(self.function),
                remedy="it is called as metric(predictions, targets): numpy arrays over a whole split, predictions in "
                "the structure that the model returns",
            ) from error
        # one number in an array or a tensor counts: many libraries return their metrics so
        if not isinstance(value, numbers.Real) and getattr(value, "shape", None) in ((), (1,)):
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise DataError(
                f"metric {self.name!r} returned {_shown(value)}, which is not a number",
                where=_line(self.function),
                remedy="return one float, higher is better",
            )
        if not math.isfinite(value):
            raise DataError(
                f"metric {self.name!r} returned {float(value)}",
                where=_line(self.function),
                remedy="look for a division by zero in it, a split without rows of some class, or NaN predictions",
            )
        return float(value)


def resolve_metric(metric: str | Metric | Callable[[Any, Any], Any]) -> Metric:
    """Return the metric of a name, a `Metric`, or a callable `(predictions, targets) -> float`.

    Raises:
        DataError: an unknown name, or something that can't be called with two arguments.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in METRICS:
            raise DataError(
                f"there is no metric named {metric!r}", where="Task.metric", remedy=suggestion(metric, METRICS)
            )
        return METRICS[metric]
    remedy = f"give a name ({', '.join(sorted(METRICS))}) or a callable (predictions, targets) -> float"
    if not callable(metric):
        raise DataError(f"metric is {_shown(metric)}, which isn't callable", where="Task.metric", remedy=remedy)
    name = str(getattr(metric, "__name__", type(metric).__name__))
    check_two_arguments(metric, f"metric {name!r}", "Task.metric", remedy)
    return Metric(name, metric)


def check_two_arguments(function: Callable[..., Any], what: str, where: str, remedy: str) -> None:
    """Raise a DataError unless the function can be called with two arguments by position."""
    if inspect.isclass(function):
        raise DataError(f"{what} is a class", where=where, remedy=f"make one first: {function.__name__}()")
    try:
        inspect.signature(function).bind(None, None)
    except ValueError:
        return  # written in C and without a signature: its first call will tell
    except TypeError as error:
        raise DataError(f"{what} can't be called with two arguments ({error})", where=where, remedy=remedy) from error


def first_output(output: Any) -> Any:
    """Return the array that named metrics and losses look at: "logits" of a dict, else the first entry."""
    while isinstance(output, Mapping | tuple | list):
        if not output:
            raise DataError("the model returns no tensor", where="the model's output", remedy="return a tensor")
        if isinstance(output, Mapping):
            output = output["logits"] if "logits" in output else next(iter(output.values()))
        else:
            output = output[0]
    return output


def predicted_classes(predictions: Any) -> np.ndarray:
    """Return the class of each row: the largest of logits (N, C), or the sign of binary logits (N,) or (N, 1)."""
    logits = _array(predictions)
    if logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1):
        return (logits.reshape(-1) > 0).astype(np.int64)
    if logits.ndim == 2:
        return logits.argmax(axis=1)
    raise DataError(
        f"the model's output has shape {logits.shape}, and a metric of classes takes logits (rows, classes)",
        where="Task.metric",
        remedy="give your own metric: a callable (predictions, targets) -> float",
    )


def _correct(predictions: Any, targets: Any) -> np.ndarray:
    classes = predicted_classes(predictions)
    return (classes == _labels(targets, len(classes))).astype(np.int8)


def _correct_top5(predictions: Any, targets: Any) -> np.ndarray:
    logits = _array(predictions)
    if logits.ndim != 2 or logits.shape[1] <= 5:
        raise DataError(
            f"the model's output has shape {logits.shape}, and top5 needs logits of more than 5 classes",
            where="Task.metric",
            remedy='use metric="accuracy"',
        )
    best = np.argpartition(logits, -5, axis=1)[:, -5:]
    return (best == _labels(targets, len(logits))[:, None]).any(axis=1).astype(np.int8)


def _accuracy(predictions: Any, targets: Any) -> float:
    return float(_correct(predictions, targets).mean())


def _top5(predictions: Any, targets: Any) -> float:
    return float(_correct_top5(predictions, targets).mean())


def _f1(predictions: Any, targets: Any) -> float:
    classes = predicted_classes(predictions)
    labels = _labels(targets, len(classes))
    _, coded = np.unique(np.concatenate([classes, labels]), return_inverse=True)
    guessed, true = coded[: len(classes)], coded[len(classes) :]
    size = int(coded.max()) + 1
    hits = np.bincount(true[guessed == true], minlength=size)
    # every class here was guessed or is true at least once, so that the sum below is never 0
    return float((2 * hits / (np.bincount(guessed, minlength=size) + np.bincount(true, minlength=size))).mean())


def _mse(predictions: Any, targets: Any) -> float:
    values, wanted = _pair(predictions, targets)
    return -float(np.mean((values - wanted) ** 2))


def _mae(predictions: Any, targets: Any) -> float:
    values, wanted = _pair(predictions, targets)
    return -float(np.mean(np.abs(values - wanted)))


def _r2(predictions: Any, targets: Any) -> float:
    values, wanted = _pair(predictions, targets)
    spread = float(np.sum((wanted - wanted.mean(axis=0)) ** 2))
    if spread == 0:
        raise DataError("all targets are the same, so r2 has no meaning", where="targets", remedy='use metric="mse"')
    return 1.0 - float(np.sum((values - wanted) ** 2)) / spread


def _pearson(predictions: Any, targets: Any) -> float:
    values, wanted = _columns(predictions, targets, "pearson")
    return _correlation(values, wanted)


def _spearman(predictions: Any, targets: Any) -> float:
    values, wanted = _columns(predictions, targets, "spearman")
    return _correlation(_ranks(values), _ranks(wanted))


def _correlation(values: np.ndarray, wanted: np.ndarray) -> float:
    if wanted.min() == wanted.max():
        raise DataError(
            "all targets are the same, so a correlation has no meaning", where="targets", remedy='use metric="mse"'
        )
    # a model that says the same for every row is worthless, not an error: a search must be able to drop it
    if values.min() == values.max():
        return 0.0
    values, wanted = values - values.mean(), wanted - wanted.mean()
    return float(values @ wanted / math.sqrt(float(values @ values) * float(wanted @ wanted)))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks where equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def _columns(predictions: Any, targets: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    values, wanted = _pair(predictions, targets)
    if values.size != len(values):
        raise DataError(
            f"the model's output has shape {values.shape}, and {name} takes one number a row",
            where="Task.metric",
            remedy="give your own metric: a callable (predictions, targets) -> float",
        )
    return values.reshape(-1), wanted.reshape(-1)


def _pair(predictions: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    values, wanted = _array(predictions).astype(np.float64), np.asarray(targets, dtype=np.float64)
    if values.shape != wanted.shape and values.size == wanted.size and {values.size} == {len(values), len(wanted)}:
        values, wanted = values.reshape(-1), wanted.reshape(-1)  # (N, 1) against (N,), which would broadcast to (N, N)
    if values.shape != wanted.shape:
        raise DataError(
            f"predictions have shape {values.shape} and targets {wanted.shape}",
            where="Task.metric",
            remedy="give targets of the shape that the model returns, or your own metric",
        )
    return values, wanted


def _array(predictions: Any) -> np.ndarray:
    values = np.asarray(first_output(predictions))
    if len(values) == 0:
        raise DataError("there are no predictions to score", where="Task.metric", remedy="give a split with rows")
    # argmax would call NaN the best class
    if values.dtype.kind == "f" and (wrong := np.isnan(values)).any():
        place = ", ".join(str(int(index)) for index in np.argwhere(wrong)[0])
        raise DataError(
            f"the predictions hold NaN, first at [{place}]",
            where=f"row {int(np.argwhere(wrong)[0][0])} of the predictions",
            remedy="look for NaN or too large values in the weights and for a division by zero in the model",
        )
    return values


def _labels(targets: Any, rows: int) -> np.ndarray:
    labels = np.asarray(targets)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (rows,):
        raise DataError(
            f"targets have shape {labels.shape} for {rows} predictions, and a metric of classes takes one label a row",
            where="targets",
            remedy="give class numbers of shape (rows,); for one-hot targets their argmax(axis=1)",
        )
    return labels


def _line(function: Any) -> str:
    try:
        code = inspect.unwrap(function).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"
    except AttributeError:
        return f"metric {getattr(function, '__name__', type(function).__name__)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _accuracy, _correct),
        Metric("top5", _top5, _correct_top5),
        Metric("f1", _f1),
        Metric("mse", _mse),
        Metric("mae", _mae),
        Metric("r2", _r2),
        Metric("pearson", _pearson),
        Metric("spearman", _spearman),
    )
}

"""Calibration: which rows are seen, that a draw comes again, and what is said of rows that don't fit."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

import leanly
from leanly.errors import DataError, LeanlyWarning, SettingError
from leanly.quantize import Static
from leanly.quantize.calibration import calibration_batches

ROWS = 100
X = torch.arange(float(ROWS))[:, None].repeat(1, 4)
Y = torch.arange(ROWS) % 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y.tolist(), strict=True))


def task(train=(X, Y), validation=None) -> leanly.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    return leanly.Task(model, example=X[:2], train=train, validation=validation)


def seen(draw: int, samples: int = 40) -> list[float]:
    whole = task()
    graph = leanly.capture(whole.model, example=X[:2])
    return [float(row) for (inputs,) in calibration_batches(graph, whole, samples, draw) for row in inputs[:, 0]]


def test_the_first_rows_or_drawn_ones():
    assert seen(0) == [float(row) for row in range(40)]
    drawn = seen(1)
    assert len(set(drawn)) == 40 and max(drawn) >= 40
    assert drawn == seen(1) != seen(2)
    assert sorted(seen(1, 1000)) == [float(row) for row in range(ROWS)]


def test_a_draw_gives_other_ranges():
    whole = task()
    graph = leanly.capture(whole.model, example=X[:2])
    first, drawn = (Static(samples=20, draw=draw)(graph, whole).state_dict() for draw in (0, 1))
    assert any(not torch.equal(first[name], drawn[name]) for name in first if name.endswith("scale"))


def test_a_stream_can_not_be_drawn_from():
    stream = task(train=Stream())
    with pytest.raises(DataError, match=r"drawn from a stream.*draw=0"):
        next(calibration_batches(leanly.capture(stream.model, example=X[:2]), stream, 10, 1))


@pytest.mark.parametrize("rows", [X[:, :3], X[:, None]])
def test_rows_of_another_shape_are_refused(rows):
    odd = task(train=(rows, Y))
    told = re.escape(f"is of shape {[16, *rows.shape[1:]]}, and the graph takes ['batch', 4]. Where: split 'train'")
    with pytest.raises(DataError, match=told):
        Static()(leanly.capture(odd.model, example=X[:2]), odd)


def test_what_is_no_number_is_told_in_one_line():
    rows = X.clone()
    rows[40, 1] = float("nan")
    odd = task(train=(rows, Y))
    with pytest.raises(DataError, match=r"NaN or infinity in row 40. Where: split 'train', batch 2") as told:
        Static()(leanly.capture(odd.model, example=X[:2]), odd)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("factor", [100.0, 255.0, 1 / 255])
def test_rows_that_are_scaled_otherwise_are_warned_of(factor):
    odd = task(validation=(X * factor, Y))
    graph = leanly.capture(odd.model, example=X[:2])
    told = re.escape(f"reaches 15 in the calibration rows (split 'train') and {15 * factor:.3g} in split 'validation'")
    with pytest.warns(LeanlyWarning, match=told):
        Static()(graph, odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Static(observer="minmax")(graph, odd)  # once is enough


def test_rows_of_one_scale_are_not():
    fine = task(validation=(X * 50, Y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Static()(leanly.capture(fine.model, example=X[:2]), fine)


def test_a_percentile_needs_enough_values():
    whole = task()
    graph = leanly.capture(whole.model, example=X[:2])
    with pytest.raises(DataError, match=r"400 values were seen, a percentile of 99.99 % needs 10000.*samples="):
        Static(observer="percentile")(graph, whole)
    assert Static(observer="percentile", percentile=99.0)(graph, whole)


@pytest.mark.parametrize(
    "settings", [{"percentile": 100}, {"percentile": 0.9999}, {"percentile": True}, {"draw": -1}, {"draw": 1.5}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        Static(**settings)

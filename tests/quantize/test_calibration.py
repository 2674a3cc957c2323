"""Calibration: which rows are seen, that a draw comes again, and what is said of rows that don't fit."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import leanly
from leanly.errors import DataError, LeanlyWarning, SettingError
from leanly.graph import Graph
from leanly.quantize import GPTQ, Binary, CorrectBias, Mixed, Reconstruct, Smooth, Static, calibration
from leanly.quantize.calibration import calibration_batches
from leanly.recipe import Pass, Recipe
from tests.once import once

ROWS = 100
X = torch.arange(float(ROWS))[:, None].repeat(1, 4)
Y = torch.arange(ROWS) % 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y.tolist(), strict=True))


@once
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@once
def captured() -> Graph:
    return leanly.capture(network(), example=X[:2])


def task(train=(X, Y), validation=None) -> leanly.Task:
    return leanly.Task(network(), example=X[:2], train=train, validation=validation)


def seen(draw: int, samples: int = 40) -> list[float]:
    whole = task()
    graph = captured()
    return [float(row) for (inputs,) in calibration_batches(graph, whole, samples, draw) for row in inputs[:, 0]]


def test_the_first_rows_or_drawn_ones():
    assert seen(0) == [float(row) for row in range(40)]
    drawn = seen(1)
    assert len(set(drawn)) == 40 and max(drawn) >= 40
    assert drawn == seen(1) != seen(2)
    assert sorted(seen(1, 1000)) == [float(row) for row in range(ROWS)]


def test_a_draw_gives_other_ranges():
    whole = task()
    graph = captured()
    first, drawn = (Static(samples=20, draw=draw)(graph, whole).state_dict() for draw in (0, 1))
    assert any(not torch.equal(first[name], drawn[name]) for name in first if name.endswith("scale"))


def test_a_stream_can_not_be_drawn_from():
    stream = task(train=Stream())
    with pytest.raises(DataError, match=r"drawn from a stream.*draw=0"):
        next(calibration_batches(captured(), stream, 10, 1))


@pytest.mark.parametrize("rows", [X[:, :3], X[:, None]])
def test_rows_of_another_shape_are_refused(rows):
    odd = task(train=(rows, Y))
    told = re.escape(f"is of shape {[16, *rows.shape[1:]]}, and the graph takes ['batch', 4]. Where: split 'train'")
    with pytest.raises(DataError, match=told):
        Static()(captured(), odd)


def test_what_is_no_number_is_told_in_one_line():
    rows = X.clone()
    rows[40, 1] = float("nan")
    odd = task(train=(rows, Y))
    with pytest.raises(DataError, match=r"NaN or infinity in row 40. Where: split 'train', batch 2") as told:
        Static()(captured(), odd)
    assert "\n" not in str(told.value)


METHODS = [
    Static(), Static(draw=1), Mixed(), Smooth(), Binary(), CorrectBias(), GPTQ(), Reconstruct(iterations=1),
]  # fmt: skip


def given(method: Pass) -> Graph:
    """Return a graph that a pass can be put behind, made on rows that are alike."""
    fine = task()
    graph = captured()
    return Static()(graph, fine) if isinstance(method, CorrectBias | GPTQ | Reconstruct) else graph


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("factor", [100.0, 1 / 255])
def test_rows_that_are_scaled_otherwise_are_warned_of_by_every_pass(method, factor):
    graph, odd = given(method), task(validation=(X * factor, Y))
    told = re.escape(f"in the calibration rows (split 'train') and from 0 to {99 * factor:.3g} in split 'validation'")
    with pytest.warns(LeanlyWarning, match=rf"Input input goes from 0 to \d+ {told}"):
        method(graph, odd)


def test_a_recipe_warns_once():
    odd = task(validation=(X * 100, Y))
    recipe = Recipe((Smooth(), Static(), CorrectBias(), GPTQ(), Reconstruct(iterations=1)))
    with pytest.warns(LeanlyWarning) as told:
        recipe(captured(), odd)
    assert len(told) == 1


@pytest.mark.parametrize("draw", [0, 1])
def test_all_rows_that_are_used_are_compared(draw):
    rows = X.clone()
    rows[20:] *= 500
    odd = task(train=(rows, Y), validation=(X, Y))
    graph = captured()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Static(samples=20)(graph, odd)
    with pytest.warns(
        LeanlyWarning, match=r"to 4.95e\+04 in the calibration rows .* from 0 to 99 in split 'validation'"
    ):
        Static(samples=ROWS, draw=draw)(graph, odd)


def test_rows_of_zeros_are_warned_of():
    empty = task(train=(X * 0, Y))
    with pytest.warns(LeanlyWarning, match="Input input is zero throughout in the calibration rows"):
        Static()(captured(), empty)


@pytest.mark.parametrize("validation", [(X * 50, Y), Stream()], ids=["other", "stream"])
def test_rows_of_one_scale_are_not(validation):
    fine = task(validation=validation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Static()(captured(), fine)


def test_rows_that_changed_in_place_are_seen_anew():
    rows = X.clone()
    one = task(train=(rows, Y))
    graph = captured()
    before, again = (Static()(graph, one).fingerprint() for _ in range(2))
    rows[50] *= 7
    assert before == again != Static()(graph, one).fingerprint()


def test_a_dataset_that_makes_other_rows_is_seen_anew():
    class Made(Dataset):
        factor = 1.0

        def __len__(self):
            return ROWS

        def __getitem__(self, index):
            return X[index] * self.factor, int(Y[index])

    rows = Made()
    one = task(train=rows)
    graph = captured()
    before, again = (Static()(graph, one).fingerprint() for _ in range(2))
    rows.factor = 3.0
    assert before == again != Static()(graph, one).fingerprint()


def test_the_same_rows_run_once(monkeypatch):
    one, ran = task(), []
    graph = captured()
    watch = calibration._watch
    monkeypatch.setattr(calibration, "_watch", lambda *given: ran.append(given) or watch(*given))
    for observer in ("mse", "minmax", "entropy"):
        Static(observer=observer)(graph, one)
    assert len(ran) == 1


def test_a_percentile_needs_enough_values():
    whole = task()
    graph = captured()
    with pytest.raises(DataError, match=r"400 values were seen, a percentile of 99.99 % needs 10,000.*samples="):
        Static(observer="percentile")(graph, whole)
    assert Static(observer="percentile", percentile=99.0)(graph, whole)


@pytest.mark.parametrize(
    "settings", [{"percentile": 100}, {"percentile": 0.9999}, {"percentile": True}, {"draw": -1}, {"draw": 1.5}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        Static(**settings)

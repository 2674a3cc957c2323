from __future__ import annotations

import pytest

from leanly.search.forecast import Forecast
from tests.search.fakes import Clock


def test_what_was_seen_is_forecast() -> None:
    clock = Clock()
    forecast = Forecast(100.0, clock)
    for seconds in (4.0, 8.0):
        with forecast.step("build"):
            clock.now += seconds
    assert forecast.expect("build") == pytest.approx(6.0)
    assert forecast.left == pytest.approx(88.0)


def test_an_unseen_kind_is_forecast_from_its_relatives_or_the_longest() -> None:
    clock = Clock()
    forecast = Forecast(100.0, clock)
    forecast.see("int8 openvino", 5.0)
    forecast.see("measure", 1.0)
    assert forecast.expect("int8 onnxruntime", like=("int8 openvino",)) == 5.0
    assert forecast.expect("other") == 5.0
    assert forecast.expect("torch", prior=20.0) == 20.0


def test_a_step_that_fails_is_not_seen() -> None:
    clock = Clock()
    forecast = Forecast(100.0, clock)
    forecast.see("build", 4.0)
    with pytest.raises(ValueError), forecast.step("build"):
        clock.now += 50.0
        raise ValueError
    assert forecast.expect("build") == 4.0

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leanly.report.scale import Axis, even_ticks, log_ticks

positive = st.floats(1e-7, 1e3)


@given(low=positive, ratio=st.floats(1.3, 1e6), most=st.integers(3, 10))
def test_log_ticks_are_inside_and_few(low: float, ratio: float, most: int) -> None:
    ticks = log_ticks(low, low * ratio, most)
    assert len(ticks) <= most
    assert all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in ticks)
    if ratio >= 10:
        assert ticks


@given(low=st.floats(-100, 100), width=st.floats(1e-4, 100), most=st.integers(3, 10))
def test_even_ticks_are_inside_and_even(low: float, width: float, most: int) -> None:
    ticks = even_ticks(low, low + width, most)
    assert 1 <= len(ticks) <= most + 1
    assert all(low - width * 1e-3 <= tick <= low + width * 1.001 for tick in ticks)


@given(value=positive)
def test_places_stay_on_the_paper(value: float) -> None:
    axis = Axis(1e-4, 1e-1, 60.0, 300.0, log=True)
    assert 60.0 <= axis.place(value) <= 300.0


def test_equal_ratios_take_equal_room() -> None:
    axis = Axis(1.0, 100.0, 0.0, 200.0, log=True)
    assert [axis.place(value) for value in (1.0, 10.0, 100.0)] == [0.0, 100.0, 200.0]
    falling = Axis(0.0, 1.0, 100.0, 0.0)
    assert falling.place(0.25) == 75.0

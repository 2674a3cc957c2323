import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanly.budget import Budget, read_bytes, read_fraction, read_latency, read_speedup, read_time
from leanly.errors import SettingError

positive = st.floats(min_value=1e-6, max_value=1e12, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1%", 0.01), ("0.5 %", 0.005), ("0.35%", 0.0035), ("0.01", 0.01), (0.01, 0.01), (0, 0.0), ("0%", 0.0), (2, 2.0)],
)
def test_drop(text, value):
    assert Budget(max_drop=text).max_drop == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10min", 600),
        ("90s", 90),
        ("1h", 3600),
        ("2h30min", 9000),
        ("2h 30 min", 9000),
        ("1h1min1s", 3661),
        ("1.5h", 5400),
        ("0.1h", 360),
        ("2 hours", 7200),
        ("10m", 600),
        ("1d", 86400),
        (45, 45),
        (0.5, 0.5),
        ("90", 90),
        (" 90 S ", 90),
    ],
)
def test_time(text, seconds):
    budget = Budget(time=text)
    assert budget.time == budget.seconds == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2MB", 2_000_000),
        ("2MiB", 2_097_152),
        ("500kB", 500_000),
        ("1.5 GB", 1_500_000_000),
        ("0.29MB", 290_000),
        ("17B", 17),
        (4096, 4096),
        ("4096", 4096),
    ],
)
def test_bytes(text, size):
    value = Budget(bytes=text).bytes
    assert value == size
    assert isinstance(value, int)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5ms", 0.005),
        ("80us", 0.00008),
        ("80µs", 0.00008),
        ("80μs", 0.00008),
        ("1s", 1),
        (0.002, 0.002),
        ("700ns", 7e-7),
    ],
)
def test_latency(text, seconds):
    assert Budget(latency=text).latency == seconds


@pytest.mark.parametrize(("text", "ratio"), [("2x", 2), ("1.5 x", 1.5), (3, 3), ("4", 4), (1, 1)])
def test_speedup(text, ratio):
    assert Budget(speedup=text).speedup == ratio


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [
        ("max_drop", -0.01, "can't be negative"),
        ("max_drop", "-1%", "can't be negative"),
        ("max_drop", math.nan, "finite"),
        ("max_drop", "nan", "finite"),
        ("max_drop", "inf%", "finite"),
        ("max_drop", "a bit", "can't be read"),
        ("max_drop", "1%%", "can't be read"),
        ("max_drop", "", "can't be read"),
        ("max_drop", None, "not a number"),
        ("max_drop", True, "not a number"),
        ("time", 0, "more than 0"),
        ("time", -1, "more than 0"),
        ("time", "0s", "more than 0"),
        ("time", "-5min", "more than 0"),
        ("time", math.nan, "finite"),
        ("time", math.inf, "finite"),
        ("time", "1e999s", "finite"),
        ("time", "30min2h", "can't be read"),
        ("time", "1h1h", "can't be read"),
        ("time", "10 parsecs", "can't be read"),
        ("time", "min", "can't be read"),
        ("time", "1h-30min", "can't be read"),
        ("time", [], "not a number"),
        ("bytes", 0, "more than 0"),
        ("bytes", "0.1B", "less than one byte"),
        ("bytes", "-2MB", "more than 0"),
        ("bytes", "2XB", "can't be read"),
        ("bytes", "1MB1kB", "can't be read"),
        ("latency", "0ms", "more than 0"),
        ("latency", "5 lightyears", "can't be read"),
        ("speedup", 0, "below 1"),
        ("speedup", "0.5x", "below 1"),
        ("speedup", "fast", "can't be read"),
        ("speedup", math.nan, "finite"),
        ("confidence", 0.5, "above 0.5"),
        ("confidence", 1, "below 1"),
        ("confidence", 95, "below 1"),
        ("confidence", math.nan, "finite"),
    ],
)
def test_what_can_not_be_spent_is_named_with_a_remedy(setting, value, why):
    with pytest.raises(SettingError) as caught:
        Budget(**{setting: value})
    assert why in caught.value.what
    assert setting in caught.value.what
    assert caught.value.where == f"Budget.{setting}"
    assert caught.value.remedy.startswith("write ")


def test_confidence_reads_percent():
    assert Budget(confidence="90%").confidence == 0.9


def test_defaults_set_a_drop_and_a_time_and_nothing_else():
    budget = Budget()
    assert (budget.max_drop, budget.confidence, budget.time) == (0.01, 0.95, 600.0)
    assert (budget.speedup, budget.bytes, budget.latency) == (None, None, None)


def test_a_budget_is_frozen_equal_by_value_and_can_be_replaced():
    budget = Budget("1%", bytes="2MB", time="1h")
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.time = 3  # type: ignore[misc]
    assert budget == Budget(0.01, bytes=2_000_000, time=3600)
    assert dataclasses.replace(budget, time="2h") == Budget("1%", bytes="2MB", time="2h")


def test_repr_carries_units():
    text = repr(Budget("1%", speedup=2, bytes=2e6, latency=0.005, time=5400))
    assert text == ("Budget(max_drop='1%', confidence=0.95, speedup='2x', bytes='2MB', latency='5ms', time='1.5h')")


@given(
    drop=st.floats(min_value=0, max_value=1e6),
    speedup=st.none() | st.floats(min_value=1, max_value=1e6),
    size=st.none() | st.integers(min_value=1, max_value=10**13),
    latency=st.none() | positive,
    time=positive,
)
def test_repr_reads_back_as_the_same_budget(drop, speedup, size, latency, time):
    budget = Budget(drop, speedup=speedup, bytes=size, latency=latency, time=time)
    assert eval(repr(budget), {"Budget": Budget}) == budget


@given(positive)
def test_a_number_and_the_text_of_it_are_the_same(value):
    assert read_time(value) == read_time(repr(value)) == read_time(f"{value!r}s") == value
    assert read_latency(f"{value!r}s") == value
    assert read_fraction("max_drop", repr(value)) == value


@given(st.integers(0, 100), st.integers(0, 59), st.integers(0, 59))
def test_times_add_up(hours, minutes, seconds):
    text = f"{hours}h{minutes}min{seconds}s"
    total = 3600 * hours + 60 * minutes + seconds
    if total:
        assert read_time(text) == total
    else:
        with pytest.raises(SettingError):
            read_time(text)


@given(st.integers(1, 10**6))
def test_sizes_are_exact(number):
    assert read_bytes(f"{number}kB") == number * 1000
    assert read_bytes(f"{number}KiB") == number * 1024


@given(st.text(max_size=12) | st.floats() | st.integers())
def test_anything_else_is_a_setting_error_never_a_wrong_number(value):
    for read in (read_time, read_latency, read_bytes, read_speedup, lambda text: read_fraction("max_drop", text)):
        try:
            number = read(value)
        except SettingError:
            continue
        assert math.isfinite(number)
        assert number >= 0

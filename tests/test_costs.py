"""CostTable: what was measured, and lines through what is near in both widths."""

from __future__ import annotations

import pytest

from leanly.costs import CostTable, PrecisionTimes
from leanly.errors import SettingError


def test_through_two_measurements_it_is_a_straight_line_in_the_macs() -> None:
    table = CostTable({"conv": ((10, 10, 1.0), (20, 10, 3.0)), "head": ((10, 2, 0.5),)})
    assert [table.seconds("conv", outputs, 10) for outputs in (10, 15, 20, 25)] == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert table.seconds("conv", 10, 5) == 0.0, "it is not below zero"
    assert table.seconds("head", 3, 1) == 0.5
    assert table.seconds("other", 10, 10) == table.seconds("conv", 0, 10) == 0.0


def test_what_was_measured_is_given_back_and_the_two_widths_are_told_apart() -> None:
    blocks = {(outputs, terms): max(outputs, 16) * terms / 1e6 for outputs in (8, 16, 32) for terms in (8, 16, 32)}
    table = CostTable({"conv": [(*widths, seconds) for widths, seconds in blocks.items()]})
    assert all(table.seconds("conv", *widths) == seconds for widths, seconds in blocks.items())
    assert table.seconds("conv", 8, 32) == 2 * table.seconds("conv", 16, 16), "of the same MACs"
    assert blocks[16, 16] < table.seconds("conv", 24, 24) < blocks[32, 32]


def test_a_narrower_layer_that_took_longer_does_not_make_the_widest_free() -> None:
    table = CostTable({"conv": ((10, 10, 3.0), (20, 10, 2.0))})
    assert 2.0 < table.seconds("conv", 15, 10) < 3.0 and table.seconds("conv", 100, 10) > 2.0


@pytest.mark.parametrize(
    "points", [(), ((1, 1, 1.0), (1, 1, 2.0)), ((1, 1, -1.0),), ((0, 1, 1.0),), ((1, float("nan"), 1.0),)]
)
def test_measurements_that_can_not_be_are_refused(points) -> None:
    with pytest.raises(SettingError, match="measurements of 'conv'"):
        CostTable({"conv": points})


def test_what_was_not_measured_in_a_precision_is_none() -> None:
    table = PrecisionTimes({"conv": {"int8": 1, "float32": 2.0}})
    assert table.seconds("conv", "int8") == 1.0 and table.seconds("conv", "float32") == 2.0
    assert table.seconds("conv", "bfloat16") is table.seconds("other", "int8") is None


@pytest.mark.parametrize(
    "layers", [{"conv": {"float32": 1.0}}, {"conv": {"int8": -1.0}}, {"conv": {"int8": 1, "int4": 1}}, {"conv": 1}, 3]
)
def test_precisions_that_do_not_exist_or_take_no_time_are_refused(layers) -> None:
    with pytest.raises(SettingError, match="by layer and precision"):
        PrecisionTimes(layers)

"""CostTable: straight lines between what was measured."""

from __future__ import annotations

import pytest

from leanly.costs import CostTable
from leanly.errors import SettingError


def test_between_two_measurements_it_is_a_straight_line() -> None:
    table = CostTable({"conv": ((100, 1.0), (200, 3.0), (400, 3.0)), "head": ((10, 0.5),)})
    assert [table.seconds("conv", macs) for macs in (100, 150, 200, 300, 400)] == [1.0, 2.0, 3.0, 3.0, 3.0]
    assert table.seconds("conv", 75) == 0.5 and table.seconds("conv", 10) == 0.0, "it goes on beyond the ends"
    assert table.seconds("head", 3) == 0.5
    assert table.seconds("other", 100) == table.seconds("conv", 0) == 0.0


@pytest.mark.parametrize("points", [(), ((2, 1.0), (1, 2.0)), ((1, 1.0), (1, 2.0)), ((1, -1.0),)])
def test_measurements_in_no_order_are_refused(points) -> None:
    with pytest.raises(SettingError, match="measurements of 'conv'"):
        CostTable({"conv": points})

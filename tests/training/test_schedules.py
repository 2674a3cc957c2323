import math

import pytest

from leanly.training.schedules import rate_factor


def test_cosine_after_a_warm_up():
    factors = [rate_factor("cosine", step, 100, 0.1) for step in range(101)]
    assert factors[:10] == [pytest.approx((step + 1) / 11) for step in range(10)]
    assert factors[10] == 1.0 and factors[55] == pytest.approx(0.5) and factors[100] == 0.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[32] == pytest.approx(0.5 * (1 + math.cos(math.pi * 22 / 90)))


def test_linear_and_constant_without_a_warm_up():
    assert [rate_factor("linear", step, 4, 0.0) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [rate_factor("constant", step, 4, 0.0) for step in range(5)] == [1.0] * 5


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_more_steps_than_planned_never_turn_it_around(schedule):
    assert rate_factor(schedule, 20, 10, 0.2) == rate_factor(schedule, 10, 10, 0.2)
    assert rate_factor(schedule, 0, 0, 0.2) >= 0

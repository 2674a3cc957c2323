"""One option a layer: the least error that limits leave room for, as trying every choice finds it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from leanly.quantize.choosing import Limit, least_error

OPTIONS = (2, 4, 8, 32)
amounts = st.floats(0, 100).map(lambda value: round(value, 3))
tables = st.lists(
    st.dictionaries(st.sampled_from(OPTIONS), st.tuples(amounts, amounts, amounts), min_size=1), min_size=1, max_size=5
)


@given(tables, st.floats(0, 1), st.floats(0, 1))
def test_it_is_the_best_of_all_choices(table: list[dict], time: float, bits: float) -> None:
    errors = {f"layer {place}": {option: three[0] for option, three in one.items()} for place, one in enumerate(table)}
    limits = []
    for kind, share in ((1, time), (2, bits)):
        costs = {
            f"layer {place}": {option: three[kind] for option, three in one.items()} for place, one in enumerate(table)
        }
        limits.append(Limit(costs, sum(max(one.values()) for one in costs.values()) * share))

    def fits(choice: dict, slack: float) -> bool:
        spent = [sum(limit.costs[layer][option] for layer, option in choice.items()) for limit in limits]
        return all(cost <= limit.most + slack for cost, limit in zip(spent, limits, strict=True))

    choices = [dict(zip(errors, picked, strict=True)) for picked in itertools.product(*errors.values())]
    sums = [sum(errors[layer][option] for layer, option in choice.items()) for choice in choices if fits(choice, 0)]
    if not sums:
        return
    found = least_error(errors, limits)
    assert found.keys() == errors.keys() and fits(found, 1e-3)
    assert sum(errors[layer][option] for layer, option in found.items()) <= min(sums) * 1.001 + 1e-3


def test_without_limits_each_layer_gets_what_errs_least() -> None:
    assert least_error({"one": {2: 3.0, 8: 1.0}, "two": {2: 0.0}}, []) == {"one": 8, "two": 2}

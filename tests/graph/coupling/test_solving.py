"""From constraints to classes."""

import numpy as np

from leanly.graph.coupling.solving import solve
from leanly.graph.coupling.units import closures
from leanly.graph.coupling.variables import FROZEN, Variables


def test_equal_variables_are_one_class_and_frozen_ones_stay():
    variables = Variables()
    a, b, c = (variables.fresh(3) for _ in range(3))
    variables.same(a, b)
    variables.freeze(b[:1])
    found = solve(variables)
    assert (found.classes[a] == found.classes[b]).all()
    assert found.frozen[found.classes[a]].tolist() == [True, False, False]
    assert not found.frozen[found.classes[c]].any() and len(set(found.classes[[*a, *c]].tolist())) == 6


def test_a_factor_that_is_left_alone_decides():
    variables = Variables()
    whole, channels = variables.fresh(12), variables.fresh(3)
    variables.grid(whole, (channels, variables.solid(4)))  # flatten(C, W) with W frozen
    found = solve(variables)
    assert (found.classes[whole].reshape(3, 4) == found.classes[channels][:, None]).all()
    assert found.either == ()


def test_a_frozen_whole_keeps_its_factors():
    variables = Variables()
    whole, one, other = variables.fresh(6), variables.fresh(2), variables.fresh(3)
    variables.grid(whole, (one, other))
    variables.freeze(whole[:1])  # whole[0, 0] stays, so one[0] and other[0] do
    found = solve(variables)
    assert found.frozen[found.classes[one]].tolist() == [True, False]
    assert found.frozen[found.classes[other]].tolist() == [True, False, False]
    assert found.classes[whole[3]] == found.classes[one[1]], "with other[0] frozen, one[1] alone decides"


def test_one_whole_laid_out_twice_has_the_same_factors():
    variables = Variables()
    whole = variables.fresh(6)
    first, second = ((variables.fresh(2), variables.fresh(3)) for _ in range(2))
    variables.grid(whole, first)
    variables.grid(whole, second)
    found = solve(variables)
    for one, other in zip(first, second, strict=True):
        assert (found.classes[one] == found.classes[other]).all()


def test_the_same_factors_make_the_same_whole():
    variables = Variables()
    parts = (variables.fresh(2), variables.fresh(3))
    wholes = [variables.fresh(6), variables.fresh(6)]
    for whole in wholes:
        variables.grid(whole, parts)
    found = solve(variables)
    assert (found.classes[wholes[0]] == found.classes[wholes[1]]).all()


def test_who_is_to_blame():
    variables = Variables()
    a, b, c = (variables.fresh(2) for _ in range(3))
    barrier = variables.barrier(None)  # type: ignore[arg-type]
    variables.same(a, b)
    variables.freeze(b, barrier)
    variables.freeze(c, barrier)
    variables.freeze(c, FROZEN)
    found = solve(variables)
    assert found.blame(a) == (2, frozenset({barrier}))
    assert found.blame(c) == (0, frozenset()), "held by an input as well"


def grid_relations(heads: int, width: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    return tuple((100 + head * width + index, (head, 50 + index)) for head in range(heads) for index in range(width))


def test_a_factor_takes_its_wholes_and_a_whole_its_cheapest_factor():
    relations = grid_relations(2, 5)
    head, index = closures([0, 50], relations)
    assert head == {0, *range(100, 105)} and index == {50, 100, 105}
    assert closures([103], relations)[0] == {103, 53, 108}, "two rows are cheaper than five"


def test_a_whole_of_two_layouts_takes_a_factor_of_each():
    relations = ((10, (0, 1)), (20, (5, 6)), (20, (0, 1)))
    assert closures([0, 5], relations) == [frozenset({0, 5, 10, 20})], "the same unit from either side"


def test_units_are_closed_under_union():
    relations = grid_relations(3, 4)
    together = frozenset.union(*closures([1, 52], relations))
    for whole, factors in relations:
        assert (whole in together) == bool(together.intersection(factors))
    assert np.isin(104, list(together))

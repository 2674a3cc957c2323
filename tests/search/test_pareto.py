from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leanly.search.pareto import Point, front, fronts

points = st.lists(
    st.tuples(st.sampled_from([1.0, 2.0, 2.1, 3.0]), st.sampled_from([5.0, 6.0]), st.sampled_from([0.1, 0.2, 0.3])),
    min_size=1,
    max_size=12,
).map(lambda rows: [Point(i, {1: a, 16: b}, m) for i, (a, b, m) in enumerate(rows)])


@given(points)
def test_no_point_on_the_front_is_beaten_and_every_other_is(given_points: list[Point]) -> None:
    kept = front(given_points, 1)
    assert kept
    for point in given_points:
        beaten = any(
            other.latency[1] <= point.latency[1]
            and other.metric >= point.metric
            and (other.latency[1], other.metric) != (point.latency[1], point.metric)
            for other in given_points
        )
        assert (point in kept) != beaten


@given(points)
def test_slack_only_adds(given_points: list[Point]) -> None:
    assert {p.number for p in front(given_points, 1)} <= {p.number for p in front(given_points, 1, slack=1.1)}


def test_near_ties_stay_with_slack() -> None:
    near = [Point(0, {1: 1.0}, 0.9), Point(1, {1: 1.05}, 0.9), Point(2, {1: 1.2}, 0.9)]
    assert [p.number for p in front(near, 1)] == [0]
    assert [p.number for p in front(near, 1, slack=1.08)] == [0, 1]


def test_fast_at_one_batch_size_is_enough() -> None:
    both = [Point(0, {1: 1.0, 16: 9.0}, 0.9), Point(1, {1: 2.0, 16: 8.0}, 0.9), Point(2, {1: 3.0, 16: 10.0}, 0.9)]
    assert {p.number for p in fronts(both, (1, 16))} == {0, 1}

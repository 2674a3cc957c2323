"""Tries: chances by halves, each cut tried once, and no longer than their share of the time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leanly.families import tries
from leanly.families.tries import SHARE, SPREAD, Cut, Tries

CUTS = [Cut(f"cut {number}", ()) for number in range(8)]


class Probe:
    """Cuts from `hopeless` on lose everything; each try takes some seconds."""

    def __init__(self, hopeless: int, takes: float = 0.0) -> None:
        self.hopeless, self.takes, self.asked, self.now = hopeless, takes, list[str](), 0.0

    def __call__(self, cut: Cut, seconds: float) -> tuple[float, float]:
        self.asked.append(cut.label)
        self.now += self.takes
        number = CUTS.index(cut)
        return 0.1, 0.5 if number >= self.hopeless else 0.001 * (1 + number)


def chances(probe: Probe, monkeypatch: pytest.MonkeyPatch, seconds: float = 100.0) -> dict[str, float]:
    monkeypatch.setattr(tries.time, "monotonic", lambda: probe.now)
    return Tries(probe, largest=0.005, noise=1e-4).chances(CUTS, {}, lambda cut: 10.0, seconds)


def test_what_is_cut_further_than_a_hopeless_one_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe(hopeless=3)
    found = chances(probe, monkeypatch)
    assert found["cut 4"] < 0.03 and not {"cut 5", "cut 6", "cut 7"} & {*probe.asked}
    assert found["cut 2"] > 0.9 and "cut 0" not in probe.asked


def test_nothing_is_tried_twice() -> None:
    probe = Probe(hopeless=9)
    judged = Tries(probe, largest=0.005, noise=1e-4)
    first = judged.chances(CUTS, {}, lambda cut: 10.0, 100.0)
    assert judged.chances(CUTS, {}, lambda cut: 10.0, 100.0) == first and len({*probe.asked}) == len(probe.asked)


def test_tries_stop_after_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    every = Probe(hopeless=9)
    every_chance = chances(every, monkeypatch)
    slow = Probe(hopeless=9, takes=SHARE * 100.0 + 1)
    monkeypatch.setattr(tries, "SURE", 2.0)
    found = chances(slow, monkeypatch)
    assert slow.asked == ["cut 4"] and found == {"cut 4": every_chance["cut 4"]}


@pytest.mark.parametrize(("seen", "likely"), [(0.1, True), (1.5, False)])
def test_rows_that_were_all_seen_teach_little_more(seen: float, likely: bool) -> None:
    found = Tries(lambda cut, seconds: (seen, 0.008), largest=0.005, noise=1e-4).chances(
        CUTS[:1], {}, lambda cut: 10.0, 20.0
    )
    assert (found["cut 0"] > 0.5) == likely


@pytest.mark.parametrize(("drop", "chance"), [(0.04, 0.05), (0.01, 0.5), (0.0025, 0.95)])
def test_by_how_much_the_try_of_one_was_wrong_is_made_good_for_the_others(drop: float, chance: float) -> None:
    def probe(cut: Cut, seconds: float) -> tuple[float, float]:
        return 1.0, 0.01 * 2 ** (CUTS.index(cut) - 3)

    judged = Tries(probe, largest=0.01, noise=1e-4)
    for number in (3, 4):
        judged.chances(CUTS[number : number + 1], {}, lambda cut: 1e9, 100.0)
    found = judged.chances(CUTS[3:5], {"cut 4": (1.0, 2 * drop)}, lambda cut: 10.0, 1e-9)
    assert found["cut 3"] == pytest.approx(chance, abs=0.04)


@pytest.mark.parametrize(("largest", "noise"), [(0.006, 0.002), (-0.002, 0.002), (-0.002, 0.008)])
def test_what_rows_can_tell_limits_the_chance(largest: float, noise: float) -> None:
    draws = np.random.default_rng(0).standard_normal((2, 100_000))
    often = (0.003 * np.exp(SPREAD * draws[0]) + noise * draws[1] < largest).mean()
    assert Tries(lambda cut, seconds: (1.0, 0.0), largest, noise).chance(1.0, 0.003, 0.0) == pytest.approx(
        often, abs=0.01
    )


def test_one_better_than_the_original_need_not_get_better_still() -> None:
    judged = Tries(lambda cut, seconds: (1.0, 0.0), largest=-0.002, noise=0.002)
    assert judged.chance(1.0, -0.004, 5.0) == judged.chance(1.0, -0.004, 0.0) > 0.7


def test_what_can_not_be_tried_is_hopeless() -> None:
    assert Tries(lambda cut, seconds: (1.0, math.inf), 0.01, 0.003).chance(1.0, math.inf, 10.0) == 0

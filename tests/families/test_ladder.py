"""The ladder, on networks whose speed and accuracy are made up: who is taught, how long, and where it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from leanly.families import tries
from leanly.families.candidate import Candidate, mean_latency
from leanly.families.ladder import MOST_TAUGHT, PARTS, Ladder, spread
from leanly.families.tries import Cut, Tries
from leanly.quantize import Static
from leanly.recipe import Pass, Recipe
from tests.families.seen import Trial

MAX_DROP = 0.01


@dataclass(frozen=True)
class Network:
    """A cut as the world has it: latency in seconds, share of MACs kept, and the drop after so many epochs."""

    latency: float
    capacity: float
    final_drop: float

    slow: float = 1.0

    def drop(self, epochs: float) -> float:
        return self.final_drop + 0.5 * math.exp(-epochs / self.slow)


def cut_pass(number: int) -> Static:
    return Static(samples=1000 + number)


def teach(cut: Cut, epochs: float, before: tuple[float, ...]) -> Static:
    return Static(samples=round(PARTS * epochs))


def candidate(passes: tuple[Pass, ...], network: str, training: float) -> Candidate:
    return Candidate(network, Recipe(passes), "openvino", "int8", network=network, training=training)


@dataclass
class Run:
    networks: Sequence[Network]
    seconds: float
    epoch: float = 1.0
    slower: float = 1.0
    """What an epoch takes over what is expected of it."""
    trial: float = 0.0
    """What making and measuring takes."""
    unsure: float = 0.0
    """Drops this far above the budget can't be told from those inside."""
    past: frozenset[str] = frozenset()
    trials: list[Trial] = field(default_factory=list)
    tries: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cuts = [Cut(f"cut {n}", (cut_pass(n),)) for n in range(len(self.networks))]
        self.left = self.seconds
        self.ladder = Ladder(
            self.cuts,
            candidate,
            teach,
            lambda cut: self.networks[self.cuts.index(cut)].capacity,
            lambda cut: self.epoch,
            Tries(self._try, MAX_DROP / 2, MAX_DROP / 100),
            self.past,
            clock=lambda: self.seconds - self.left,
        )

    def _try(self, cut: Cut, seconds: float) -> tuple[float, float]:
        self.tries.append(self.cuts.index(cut))
        self.left -= 0.1 * self.epoch
        return 0.1, self.networks[self.cuts.index(cut)].drop(0.1)

    def explore(self, whole: float = 1.0, each: float = 0.0) -> Run:
        for _ in range(100):
            tried = {trial.candidate.key for trial in self.trials}
            ideas = self.ladder.ideas(self.trials, whole, each, self.left)
            idea = next((idea for idea in ideas if idea.key not in tried), None)
            if idea is None:
                return self
            self.trials.append(self._measure(idea))
        raise AssertionError("the ladder has no end")

    def _measure(self, idea: Candidate) -> Trial:
        first, *taught = [step.samples for step in idea.recipe.passes]  # type: ignore[attr-defined]
        network = self.networks[first - 1000]
        drop = network.drop(sum(taught) / PARTS)
        outcome = "pass" if drop < MAX_DROP else "undecided" if drop < MAX_DROP + self.unsure else "fail"
        taken = self.trial + (self.slower * self.epoch * taught[-1] / PARTS if taught else 0.0)
        self.left -= taken
        return Trial(idea, {1: network.latency}, outcome, drop, taken)

    @property
    def taught(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for trial in self.trials:
            first, *epochs = [step.samples for step in trial.candidate.recipe.passes]  # type: ignore[attr-defined]
            if epochs:
                found[f"cut {first - 1000}"] = sum(epochs) / PARTS
        return found


GOOD, BAD = 0.0, 0.2


def test_every_cut_is_measured_before_any_is_taught() -> None:
    run = Run([Network(0.8, 0.8, GOOD), Network(0.4, 0.4, BAD)], seconds=100).explore()
    assert [trial.candidate.training > 0 for trial in run.trials[:2]] == [False, False]
    assert all(trial.candidate.training > 0 for trial in run.trials[2:])


def test_with_little_time_few_are_measured_and_the_extremes_are_among_them() -> None:
    run = Run([Network(0.1 * n, 0.1 * n, BAD) for n in range(1, 10)], seconds=40).explore(each=1.5)
    untaught = [trial.candidate.network for trial in run.trials if not trial.candidate.training]
    assert len(untaught) == 4, "0.15 of 40 s for trials of 1.5 s"
    assert {"cut 0", "cut 8"} <= set(untaught)


def test_with_little_time_one_is_measured_and_gets_what_measuring_leaves() -> None:
    networks = [Network(0.1 * n, 0.1 * n, GOOD) for n in range(1, 10)]
    run = Run(networks, seconds=66, trial=14.0).explore(each=14.0)
    assert [trial.candidate.network.split(",")[0] for trial in run.trials[:2]] == ["cut 4", "cut 4"]
    assert run.taught["cut 4"] > 20 and not run.tries, "with one cut there is nothing to choose"
    assert run.left >= 0


def test_a_network_that_is_not_faster_is_never_taught() -> None:
    run = Run([Network(0.97, 0.5, GOOD), Network(0.5, 0.5, GOOD)], seconds=100).explore()
    assert list(run.taught) == ["cut 1"]


def test_a_cut_that_another_beats_in_time_and_size_is_never_taught() -> None:
    run = Run([Network(0.8, 0.3, GOOD), Network(0.5, 0.5, GOOD)], seconds=100).explore()
    assert list(run.taught) == ["cut 1"], "narrow and slow loses to shallow and fast"


def test_of_networks_equally_fast_the_larger_is_taught() -> None:
    run = Run([Network(0.50, 0.3, GOOD), Network(0.51, 0.6, GOOD)], seconds=100).explore()
    assert list(run.taught) == ["cut 1"]


def test_few_are_taught_and_the_extremes_are_among_them() -> None:
    networks = [Network(0.1 * n, 0.1 * n, GOOD) for n in range(1, 10)]
    run = Run(networks, seconds=1000).explore()
    assert len(run.taught) == MOST_TAUGHT and {"cut 0", "cut 8"} <= set(run.taught)


def test_the_weak_are_dropped_and_the_rest_gets_the_time() -> None:
    networks = [Network(0.8, 0.8, GOOD), Network(0.6, 0.6, 0.005), Network(0.4, 0.4, 0.05), Network(0.2, 0.2, BAD)]
    run = Run(networks, seconds=200).explore()
    winner = run.ladder.winners(run.trials)[0]
    assert winner.candidate.network.startswith("cut 1,")
    assert run.taught["cut 1"] > run.taught["cut 3"], "the weakest is taught least"


def test_one_inside_the_budget_is_taught_no_longer() -> None:
    run = Run([Network(0.5, 0.5, -0.5), Network(0.3, 0.3, 1.1 * MAX_DROP)], seconds=200).explore()
    assert run.taught["cut 0"] < run.taught["cut 1"]


def test_winners_are_ordered_by_latency() -> None:
    run = Run([Network(0.8, 0.8, GOOD), Network(0.4, 0.4, GOOD)], seconds=200).explore()
    winners = run.ladder.winners(run.trials)
    assert [mean_latency(trial) for trial in winners] == sorted(mean_latency(trial) for trial in winners)
    assert winners and all(trial.outcome == "pass" for trial in winners)


def test_of_the_rounds_of_one_cut_inside_the_last_wins() -> None:
    run = Run([Slow(0.8, 0.8, 0.8 * MAX_DROP), Slow(0.4, 0.4, 60 * MAX_DROP)], seconds=100, epoch=5.0).explore()
    rounds = [trial for trial in run.trials if trial.candidate.network.startswith("cut 0, taught")]
    assert len(rounds) > 1 and {trial.outcome for trial in rounds} == {"pass"}
    assert run.ladder.winners(run.trials) == [rounds[-1]]


def test_where_none_is_shown_to_be_inside_the_most_accurate_undecided_one_wins() -> None:
    networks = [Network(0.8, 0.8, 0.012), Network(0.4, 0.4, 0.015), Network(0.2, 0.2, BAD)]
    run = Run(networks, seconds=200, unsure=0.01).explore()
    first, *_ = run.ladder.winners(run.trials)
    assert first.outcome == "undecided"
    drops = [trial.drop for trial in run.trials if trial.outcome == "undecided" and trial.drop is not None]
    assert first.drop == min(drops)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 3.0, 17.0, 240.0])
def test_teaching_stays_inside_the_time(seconds: float) -> None:
    networks = [Network(0.2 * n, 0.2 * n, BAD) for n in range(1, 5)]
    run = Run(networks, seconds=seconds).explore()
    assert run.left >= 0
    if seconds < 1:
        assert not run.taught, "no time for one epoch"


def test_it_says_why_none_was_taught() -> None:
    short = Run([Network(0.5, 0.5, GOOD)], seconds=0.5).explore()
    assert "an epoch takes 1 s at least, and 0.5 s were left" in short.ladder.remark()
    slow = Run([Network(0.97, 0.5, GOOD)], seconds=100).explore()
    assert "none that was measured takes 0.95" in slow.ladder.remark()
    assert not Run([Network(0.5, 0.5, GOOD)], seconds=100).explore().ladder.remark()


def test_what_rounds_took_tells_how_long_the_next_may_be() -> None:
    networks = [Slow(0.9, 0.9, 1.5 * MAX_DROP), Slow(0.5, 0.5, 90 * MAX_DROP)]
    as_expected, slower, faster = (
        Run(networks, seconds=36, epoch=10.0, slower=slower).explore() for slower in (1.0, 1.25, 0.8)
    )
    assert slower.left >= 0
    assert slower.taught["cut 0"] < as_expected.taught["cut 0"] < faster.taught["cut 0"]


@pytest.mark.parametrize("killed_after", [1, 3, 4, 5])
def test_a_second_process_comes_to_the_same_networks(killed_after: int) -> None:
    networks = [Network(0.8, 0.8, GOOD), Network(0.4, 0.4, 0.02)]
    once = Run(networks, seconds=100).explore()
    done = [trial.candidate.key for trial in once.trials[:killed_after]]
    again = Run(networks, seconds=61, past=frozenset(done)).explore()
    assert [trial.candidate.key for trial in again.trials[:killed_after]] == done


def test_time_that_is_left_goes_to_a_faster_one_that_was_left_behind() -> None:
    networks = [Slow(0.8, 0.8, GOOD), Slow(0.6, 0.6, 5.9 * MAX_DROP), Slow(0.3, 0.3, 7 * MAX_DROP)]
    run = Run(networks, seconds=300).explore()
    assert run.ladder.winners(run.trials)[0].candidate.network.startswith("cut 2,"), "slow to learn, but it gets there"


def test_steps_between_those_first_taught_are_taken_while_there_is_time() -> None:
    networks = [Network(0.1 * n, 0.1 * n, GOOD if n >= 3 else BAD) for n in range(1, 10)]
    run = Run(networks, seconds=1000).explore()
    assert run.ladder.winners(run.trials)[0].candidate.network.startswith("cut 2,"), "the fastest that can get inside"


def test_what_learns_nothing_any_more_gets_no_more_time() -> None:
    networks = [Network(0.8, 0.8, GOOD), Network(0.3, 0.3, BAD, slow=0.01)]
    run = Run(networks, seconds=1000).explore()
    assert run.left > 500


@pytest.mark.parametrize("fastest_good", range(7))
def test_with_time_for_a_few_epochs_the_limit_is_found_by_halves(fastest_good: int) -> None:
    networks = [Network(0.9 - 0.1 * n, 0.9 - 0.1 * n, -0.5 if n <= fastest_good else BAD) for n in range(7)]
    run = Run(networks, seconds=60, epoch=10.0).explore()
    assert run.ladder.winners(run.trials)[0].candidate.network.startswith(f"cut {fastest_good},")
    assert len(run.taught) <= 4 and run.left >= 0


def test_where_none_gets_inside_the_time_goes_to_the_slowest() -> None:
    networks = [Network(0.8, 0.8, GOOD, slow=2.0), Network(0.6, 0.6, BAD), Network(0.4, 0.4, BAD)]
    run = Run(networks, seconds=300, epoch=40.0).explore()
    assert run.taught["cut 0"] == max(run.taught.values()) > 1


@dataclass(frozen=True)
class Slow(Network):
    """Its drop falls as the root of the epochs; `final_drop` is what is left after one."""

    def drop(self, epochs: float) -> float:
        return self.final_drop / math.sqrt(max(epochs, 1e-9))


@pytest.mark.parametrize("fastest_good", range(6))
def test_short_tries_show_which_is_worth_the_time(fastest_good: int) -> None:
    networks = [
        Slow(0.9 - 0.1 * n, 0.9 - 0.1 * n, 0.8 * GOOD if n <= fastest_good else 8 * MAX_DROP + 0.1 * n)
        for n in range(7)
    ]
    run = Run(networks, seconds=60, epoch=10.0).explore()
    first = next(trial.candidate.network for trial in run.trials if "taught" in trial.candidate.network)
    assert first.startswith(f"cut {fastest_good},")
    assert run.ladder.winners(run.trials)[0].candidate.network.startswith(f"cut {fastest_good},")
    assert len(run.tries) == len(set(run.tries))


def test_where_no_try_is_promising_the_slowest_gets_all_the_time() -> None:
    networks = [Slow(0.9 - 0.1 * n, 0.9 - 0.1 * n, 0.2 + 0.1 * n) for n in range(5)]
    run = Run(networks, seconds=60, epoch=10.0).explore()
    assert set(run.taught) == {"cut 0"} and sum(run.taught.values()) >= 3


@dataclass(frozen=True)
class Turning(Network):
    """Short tries say nothing of what becomes of it."""

    early: float = 0.0

    def drop(self, epochs: float) -> float:
        return self.early if epochs < 0.5 else self.final_drop


def test_where_half_of_the_time_is_hardly_an_epoch_one_gets_all_of_it() -> None:
    networks = [Turning(0.8, 0.8, GOOD, early=0.5), Turning(0.4, 0.4, 3 * MAX_DROP, early=0.1 * MAX_DROP)]
    run = Run(networks, seconds=60, epoch=22.0).explore()
    assert list(run.taught) == ["cut 1"] and run.taught["cut 1"] > 2
    assert sum(trial.candidate.training > 0 for trial in run.trials) == 1


def test_where_the_promising_one_fell_short_the_least_cut_gets_the_rest() -> None:
    networks = [Turning(0.8, 0.8, GOOD, early=0.5), Turning(0.4, 0.4, 3 * MAX_DROP, early=0.1 * MAX_DROP)]
    run = Run(networks, seconds=60, epoch=15.0).explore()
    assert list(run.taught) == ["cut 1", "cut 0"]
    assert run.ladder.winners(run.trials)[0].candidate.network.startswith("cut 0,")


def test_where_tries_would_take_too_long_the_least_cut_gets_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "SHARE", -1.0)
    networks = [Slow(0.9 - 0.1 * n, 0.9 - 0.1 * n, 0.2 * MAX_DROP) for n in range(5)]
    run = Run(networks, seconds=60, epoch=10.0).explore()
    assert not run.tries and next(iter(run.taught)) == "cut 0"


def test_what_was_taught_and_is_promising_is_taught_on() -> None:
    networks = [Slow(0.9, 0.9, MAX_DROP), Slow(0.8, 0.8, 1.1 * MAX_DROP), Slow(0.7, 0.7, 90 * MAX_DROP)]
    run = Run(networks, seconds=200, epoch=10.0).explore()
    assert "cut 1" in run.taught and run.ladder.winners(run.trials)[0].candidate.network.startswith("cut 1,")


def test_what_is_hopeless_leaves_its_time_to_the_fastest_inside() -> None:
    networks = [Slow(0.8, 0.8, 0.8 * MAX_DROP), Slow(0.4, 0.4, 60 * MAX_DROP)]
    run = Run(networks, seconds=100, epoch=5.0).explore()
    last = run.trials[-1].candidate.network
    assert last.startswith("cut 0,") and run.taught["cut 0"] > run.taught["cut 1"]


def test_a_round_that_took_more_than_all_the_time_is_the_last() -> None:
    networks = [Slow(0.8, 0.8, 0.8 * MAX_DROP), Slow(0.4, 0.4, 60 * MAX_DROP)]
    run = Run(networks, seconds=100, epoch=5.0, slower=5.0).explore()
    assert run.left < 0 and len([trial for trial in run.trials if "taught" in trial.candidate.network]) == 2


@pytest.mark.parametrize(("count", "chosen"), [(1, [3]), (2, [1, 4]), (3, [0, 2, 5]), (6, [0, 1, 2, 3, 4, 5])])
def test_few_cuts_are_measured_from_the_middle_and_three_from_end_to_end(count, chosen):
    assert spread(range(6), count) == chosen

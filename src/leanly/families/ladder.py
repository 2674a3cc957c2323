"""The ladder: smaller networks tried untrained, the fastest of each size taught by the original, weak ones dropped.

Training goes in rounds of about equal time with half as many networks each (successive halving, Jamieson & Talwalkar
2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"). Which are fast is measured before any
training, since the weights don't change the time; which stay accurate shows while they are taught.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from leanly.families.candidate import Candidate, Seen, mean_latency
from leanly.recipe import Pass

WORTH = 0.95
"""A smaller network is taught only if it takes at most this share of the time of the whole one."""

SHARE = 0.75
"""Share of the spare time that teaching may take; the rest goes to quantizing and running the winner otherwise."""

UNTAUGHT_SHARE = 0.3
"""Share of the spare time that measuring untaught networks may take; with less time fewer are measured."""

ROUNDS = 3
LEAST_UNTAUGHT, MOST_TAUGHT = 3, 4
MOST_EPOCHS = 64
ALIKE = 1.05
"""Networks whose latencies differ by less are as fast as each other: only the largest of them is taught."""


@dataclass(frozen=True)
class Cut:
    """Passes that make the network smaller.

    Args:
        label: how people read it: "half of the channels".
        passes: the passes.
    """

    label: str
    passes: tuple[Pass, ...]


@dataclass
class _Rung:
    """One round of teaching: so many more epochs for each cut."""

    epochs: dict[int, int]
    """Cut -> epochs of this round."""
    before: dict[int, tuple[int, ...]]
    """Cut -> epochs of the rounds before."""


@dataclass
class Ladder:
    """Which cut to try next, judged by what was measured.

    Args:
        cuts: the smaller networks, in any order.
        candidate: (passes, label, seconds of training) -> the candidate to measure, quantized as the best was.
        teach: epochs -> the pass that teaches.
        capacity: cut -> share of the MACs that it keeps.
        epoch_seconds: cut -> seconds that an epoch of teaching takes.
    """

    cuts: Sequence[Cut]
    candidate: Callable[[tuple[Pass, ...], str, float], Candidate]
    teach: Callable[[int], Pass]
    capacity: Callable[[Cut], float]
    epoch_seconds: Callable[[Cut], float]
    _measured: list[int] = field(default_factory=list)
    _rungs: list[_Rung] = field(default_factory=list)

    def ideas(self, trials: Sequence[Seen], whole: Seen, seconds: float) -> Iterator[Candidate]:
        """Yield what to try, in order, tried ones too.

        Args:
            trials: what was seen.
            whole: the whole network, quantized alike.
            seconds: spare time of the run.
        """
        seen = {trial.candidate.key: trial for trial in trials}
        if not self._measured:
            affordable = int(UNTAUGHT_SHARE * seconds / max(whole.seconds, 1e-9))
            self._measured = spread(range(len(self.cuts)), min(max(affordable, LEAST_UNTAUGHT), len(self.cuts)))
        untaught = {number: self._untaught(self.cuts[number]) for number in self._measured}
        yield from untaught.values()
        times = {
            number: mean_latency(seen[candidate.key])
            for number, candidate in untaught.items()
            if candidate.key in seen and seen[candidate.key].medians
        }
        if not self._rungs:
            limit = WORTH * mean_latency(whole)
            first = self._worth_teaching({n: time for n, time in times.items() if time <= limit})
            self._begin(first, seconds * SHARE)
        position = 0
        while position < len(self._rungs):
            rung = self._rungs[position]
            taught = {number: self._taught(number, rung) for number in rung.epochs}
            yield from taught.values()
            if position + 1 == len(self._rungs):
                self._go_on(rung, {n: seen[c.key] for n, c in taught.items() if c.key in seen}, seconds * SHARE)
            position += 1

    def winners(self, trials: Sequence[Seen]) -> list[Seen]:
        """Return the taught networks inside the budget, fastest first; where none is, the undecided, best first."""
        keys = {self._taught(number, rung).key for rung in self._rungs for number in rung.epochs}
        taught = [trial for trial in trials if trial.candidate.key in keys and trial.medians]
        inside = [trial for trial in taught if trial.outcome == "pass"]
        undecided = [trial for trial in taught if trial.outcome == "undecided"]
        return sorted(inside, key=mean_latency) or sorted(undecided, key=lambda trial: trial.drop or 0.0)

    def _untaught(self, cut: Cut) -> Candidate:
        return self.candidate(cut.passes, cut.label, 0.0)

    def _taught(self, number: int, rung: _Rung) -> Candidate:
        cut, epochs = self.cuts[number], (*rung.before[number], rung.epochs[number])
        passes = (*cut.passes, *(self.teach(count) for count in epochs))
        label = f"{cut.label}, taught {sum(epochs)} epoch{'s' if sum(epochs) > 1 else ''}"
        return self.candidate(passes, label, rung.epochs[number] * self.epoch_seconds(cut))

    def _worth_teaching(self, times: dict[int, float]) -> list[int]:
        """Return cuts no other of which is both faster and larger, few and evenly spread in latency, slowest first."""
        front: list[int] = []
        for number in sorted(times, key=lambda n: times[n]):
            larger = not front or self.capacity(self.cuts[number]) > self.capacity(self.cuts[front[-1]])
            if larger and front and times[number] < ALIKE * times[front[-1]]:
                front[-1] = number
            elif larger:
                front.append(number)
        front.reverse()
        return spread(front, MOST_TAUGHT)

    def _begin(self, chosen: list[int], seconds: float) -> None:
        """Start with as many cuts as can be taught an epoch each in a first round; the most moderate stay."""
        while chosen and sum(self.epoch_seconds(self.cuts[n]) for n in chosen) > seconds / min(ROUNDS, len(chosen)):
            chosen = chosen[:-1]
        if chosen:
            self._add(dict.fromkeys(chosen, ()), seconds / ROUNDS)

    def _go_on(self, rung: _Rung, taught: dict[int, Seen], seconds: float) -> None:
        """Teach the better half of what is faster than the fastest one inside the budget a round longer."""
        judged = {number: trial for number, trial in taught.items() if trial.medians and trial.drop is not None}
        inside = [mean_latency(trial) for trial in judged.values() if trial.outcome == "pass"]
        limit = min(inside, default=math.inf)
        open_ = [n for n, trial in judged.items() if trial.outcome != "pass" and mean_latency(trial) < limit]
        if not open_:
            return
        keep = sorted(open_, key=lambda n: judged[n].drop or 0.0)[: max(1, len(rung.epochs) // 2)]
        before = {n: (*rung.before[n], rung.epochs[n]) for n in keep}
        # the last round gets all the time there is
        rounds_left = max(1, ROUNDS - len(self._rungs))
        self._add(before, seconds / rounds_left)

    def _add(self, before: dict[int, tuple[int, ...]], seconds: float) -> None:
        """Add a round of about so many seconds, in epochs that are powers of two, so that a resumed run finds it."""
        each = sum(self.epoch_seconds(self.cuts[number]) for number in before)
        affordable = int(seconds / max(each, 1e-9))
        if affordable < 1:
            return
        count = min(1 << (affordable.bit_length() - 1), MOST_EPOCHS)
        self._rungs.append(_Rung(dict.fromkeys(before, count), before))


def spread(items: Sequence[int], count: int) -> list[int]:
    """Return so many of the items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]

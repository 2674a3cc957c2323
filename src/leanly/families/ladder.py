"""The ladder: smaller networks tried untrained, the fastest of each size taught by the original, weak ones dropped.

Training goes in rounds of about equal time with half as many networks each (successive halving, Jamieson & Talwalkar
2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"); where the time is too short for a
round of several, one is taught at a time: the one with the most to gain, by how fast it is and by the chance that a
short try gives it. Which are fast is measured before any training, since the weights don't change the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from leanly.families.candidate import Candidate, Seen, mean_latency
from leanly.families.tries import HOPELESS, Cut, Tries
from leanly.recipe import Pass

WORTH = 0.95
"""A smaller network is taught only if it takes at most this share of the time of the whole one."""

SHARE, LATER = 0.75, 6
"""Teaching may take this share of the spare time, or all but what so many trials take if that is more: the winner is
quantized and run otherwise in it."""
MEASURED = 1.5
"""Trials whose time is kept back from teaching at least: what is taught has to be measured."""

UNTAUGHT_SHARE, UNTAUGHT_MOST = 0.15, 1 / 3
"""Share of the spare time that measuring untaught networks may take; the first few of them may take the larger one."""

ROUNDS, HALF = 3, 2
HALF_EPOCHS = 1.5
"""Epochs that half of the time has to hold, to keep the other half for another cut."""
LEAST_GAIN = 0.005
"""Logarithm of a speed-up, times its chance, for which nothing more is taught."""
LEAST_UNTAUGHT, MOST_TAUGHT = 3, 4
MOST_EPOCHS = 64
LEAST_PACE, MOST_PACE = 0.7, 1.5
"""How far what a round took is believed: one that was cut off and went on took less."""
PARTS = 10
"""Of an epoch: a round that lasts one at least is as long as so many parts of it fill its time."""
ALIKE = 1.05
"""Networks whose latencies differ by less are as fast as each other: only the largest of them is taught."""


@dataclass
class _Rung:
    """One round of teaching: so many more epochs for each cut."""

    epochs: dict[int, float]
    """Cut -> epochs of this round."""
    before: dict[int, tuple[float, ...]]
    """Cut -> epochs of the rounds before."""


@dataclass
class Ladder:
    """Which cut to try next, judged by what was measured.

    Args:
        cuts: the smaller networks, in any order.
        candidate: (passes, label, seconds of training) -> the candidate to measure, quantized as the best was.
        teach: (cut, epochs, epochs of the rounds before) -> the pass that teaches.
        capacity: cut -> share of the MACs that it keeps.
        epoch_seconds: cut -> seconds that an epoch of teaching takes.
        tries: says by short tries which cut is likely to get inside.
        past: keys of the candidates that an earlier process measured; they are asked for again.
        clock: monotonic seconds.
    """

    cuts: Sequence[Cut]
    candidate: Callable[[tuple[Pass, ...], str, float], Candidate]
    teach: Callable[[Cut, float, tuple[float, ...]], Pass]
    capacity: Callable[[Cut], float]
    epoch_seconds: Callable[[Cut], float]
    tries: Tries
    past: Collection[str] = ()
    clock: Callable[[], float] = time.monotonic
    _deadline: float = 0.0
    _whole: float = math.inf
    _trial: float = 0.0
    """Seconds that making and measuring a network takes, without teaching it."""
    _pace: float = 1.0
    """What teaching took, over what was expected."""
    _measured: list[int] = field(default_factory=list)
    _rungs: list[_Rung] = field(default_factory=list)
    _front: list[int] = field(default_factory=list)

    def ideas(self, trials: Sequence[Seen], whole: float, each: float, seconds: float) -> Iterator[Candidate]:
        """Yield what to try, in order, tried ones too.

        Args:
            trials: what was seen.
            whole: latency of the whole network, quantized alike, in seconds.
            each: seconds that making and measuring a network takes.
            seconds: spare time of the run.
        """
        seen = {trial.candidate.key: trial for trial in trials}
        self._deadline = self.clock() + seconds
        self._whole = whole
        every = [self._untaught(cut) for cut in self.cuts]
        self._trial = max(each, *(seen[one.key].seconds for one in every if one.key in seen), 1e-9)
        if not self._measured:
            few = min(max(int(UNTAUGHT_MOST * seconds / self._trial), 1), LEAST_UNTAUGHT)
            chosen = spread(range(len(self.cuts)), max(int(UNTAUGHT_SHARE * seconds / self._trial), few))
            before = [number for number, one in enumerate(every) if one.key in self.past or one.key in seen]
            self._measured = sorted({*chosen, *before})
        untaught = {number: every[number] for number in self._measured}
        yield from untaught.values()
        times = {
            number: mean_latency(seen[candidate.key])
            for number, candidate in untaught.items()
            if candidate.key in seen and seen[candidate.key].medians
        }
        if not self._rungs:
            limit = WORTH * self._whole
            self._front = self._worth_teaching({n: time for n, time in times.items() if time <= limit})
            self._begin(spread(self._front, MOST_TAUGHT), times)
        position = 0
        while position < len(self._rungs):
            rung = self._rungs[position]
            taught = {number: self._taught(number, rung) for number in rung.epochs}
            yield from taught.values()
            if position + 1 == len(self._rungs):
                self._pace = self._seen_pace(seen)
                self._go_on(seen, times)
            position += 1

    def winners(self, trials: Sequence[Seen]) -> list[Seen]:
        """Return the taught networks inside the budget, fastest first; where none is, the undecided, best first."""
        seen = {trial.candidate.key: trial for trial in trials}
        taught = [self._seen(number, seen) for number in {number for rung in self._rungs for number in rung.epochs}]
        # of the rounds of one cut, which are as fast as each other, the last inside is the most accurate
        passing = [[trial for trial in rounds if trial.outcome == "pass"] for rounds in taught]
        inside = [rounds[-1] for rounds in passing if rounds]
        undecided = [trial for rounds in taught for trial in rounds if trial.outcome == "undecided"]
        return sorted(inside, key=mean_latency) or sorted(undecided, key=lambda trial: trial.drop or 0.0)

    def remark(self) -> str:
        """Say why no network was taught; empty where one was."""
        if self._rungs:
            return ""
        told = "no smaller network was taught: "
        if not self._front:
            return f"{told}none that was measured takes {WORTH:g} of the whole one's time or less"
        least = min(self._round_seconds([number]) for number in spread(self._front, MOST_TAUGHT))
        return f"{told}an epoch takes {least:.2g} s at least, and {self._for_teaching():.2g} s were left"

    def _untaught(self, cut: Cut) -> Candidate:
        return self.candidate(cut.passes, cut.label, 0.0)

    def _taught(self, number: int, rung: _Rung) -> Candidate:
        cut, epochs = self.cuts[number], (*rung.before[number], rung.epochs[number])
        lessons = (self.teach(cut, count, epochs[:place]) for place, count in enumerate(epochs))
        label = f"{cut.label}, taught {sum(epochs):.3g} epoch{'s' if sum(epochs) > 1 else ''}"
        return self.candidate(
            (*cut.passes, *cut.restored, *lessons), label, rung.epochs[number] * self._epoch_seconds(cut)
        )

    def _worth_teaching(self, times: dict[int, float]) -> list[int]:
        """Return cuts no other of which is both faster and larger, slowest first."""
        front: list[int] = []
        for number in sorted(times, key=lambda n: times[n]):
            larger = not front or self.capacity(self.cuts[number]) > self.capacity(self.cuts[front[-1]])
            if larger and front and times[number] < ALIKE * times[front[-1]]:
                front[-1] = number
            elif larger:
                front.append(number)
        return front[::-1]

    def _begin(self, chosen: list[int], times: dict[int, float]) -> None:
        """Start with some cuts at once, or with a single one where the time is too short for a round of them."""
        each = self._round_seconds(chosen) + len(chosen) * self._trial
        seconds = self._for_teaching()
        if len(chosen) == 1:
            self._add({chosen[0]: ()}, seconds)
        elif chosen and each <= seconds / min(ROUNDS, len(chosen)):
            self._add(dict.fromkeys(chosen, ()), max(each, seconds / ROUNDS))
        else:
            self._teach_likeliest({}, times)

    def _teach_likeliest(self, latest: dict[int, list[Seen]], times: dict[int, float]) -> None:
        """Teach the cut with most to gain: the first in half of the time if that is long, then one in all that is left.

        Args:
            latest: what was measured of each cut that was taught, round by round.
            times: latency of each cut, untaught.
        """
        seconds = self._for_teaching()
        inside = [times[number] for number, trials in latest.items() if trials and trials[-1].outcome == "pass"]
        limit = WORTH * min([self._whole, *inside])
        open_ = [
            number
            for number in self._front
            if times[number] <= limit and (number not in latest or _still_learns(latest[number]))
            if self._round_seconds([number]) <= seconds
        ]
        before = {number: self._epochs(number) for number in open_}
        again = [number for number in open_ if self._taught_before({number: before[number]}) is not None]
        longest = max((self._round_seconds([number]) for number in open_), default=0.0)
        part = 1 if latest or seconds / HALF < HALF_EPOCHS * longest else HALF
        chances = {} if again else self._chances(open_, latest, seconds / part)
        seconds = self._for_teaching()  # trying took some
        gains = {number: chance * math.log(limit / WORTH / times[number]) for number, chance in chances.items()}
        worth = [number for number in gains if gains[number] >= LEAST_GAIN and chances[number] >= HOPELESS]
        if not again and not worth and not inside:
            # nothing is likely to get inside: what is cut least comes nearest
            worth, part = open_[:1], 1
        for number in again or sorted(worth, key=lambda number: -gains.get(number, 0.0)):
            each = self._round_seconds([number])
            if self._add({number: before[number]}, min(max(seconds / part, each), seconds)):
                return

    def _chances(self, open_: list[int], latest: dict[int, list[Seen]], seconds: float) -> dict[int, float]:
        cuts = [self.cuts[number] for number in open_]
        taught = {
            self.cuts[number].label: self._learned(number, trials[-1]) for number, trials in latest.items() if trials
        }
        found = self.tries.chances(cuts, taught, self._epoch_seconds, seconds)
        return {number: found[cut.label] for number, cut in zip(open_, cuts, strict=True) if cut.label in found}

    def _go_on(self, seen: dict[str, Seen], times: dict[int, float]) -> None:
        """Teach on what is faster than the fastest inside the budget, the better half, in the end one; or that fastest.

        Args:
            seen: what was measured, by the key of the candidate.
            times: latency of each cut, untaught.
        """
        seconds = self._for_teaching()
        latest = {number: self._seen(number, seen) for rung in self._rungs for number in rung.epochs}
        if len(self._rungs[0].epochs) == 1 < len(self._front):
            if len(self._rungs) < ROUNDS:
                self._teach_likeliest(latest, times)
            return
        inside = [mean_latency(trials[-1]) for trials in latest.values() if trials and trials[-1].outcome == "pass"]
        limit = min(inside, default=math.inf)
        open_ = [
            number
            for number, trials in latest.items()
            if trials and trials[-1].outcome != "pass" and mean_latency(trials[-1]) < limit and _still_learns(trials)
            if self._may_get_inside(number, trials[-1], seconds)
        ]
        open_.sort(key=lambda number: latest[number][-1].drop or 0.0)
        rung = self._rungs[-1]
        half = [number for number in open_ if number in rung.epochs][: max(1, len(rung.epochs) // 2)]
        rounds_left = ROUNDS - len(self._rungs)
        if rounds_left > 1 and half:
            chosen, seconds = half, seconds / rounds_left
        elif half or not inside:
            chosen = (half or open_)[:1]
        else:
            # a step further than what got inside the budget, be it one that a round left behind or a new one
            new = [number for number in self._front if number not in latest and times.get(number, math.inf) < limit]
            chosen = sorted((*open_, *new), key=lambda number: times.get(number, 0.0), reverse=True)[:1]
        if not chosen and len(self._rungs) < ROUNDS:
            # the fastest inside: the less it loses, the likelier it is certified
            passing = [number for number, trials in latest.items() if trials and trials[-1].outcome == "pass"]
            chosen = sorted(passing, key=lambda number: mean_latency(latest[number][-1]))[:1]
        self._add({number: self._epochs(number) for number in chosen}, seconds)

    def _may_get_inside(self, number: int, trial: Seen, seconds: float) -> bool:
        return self.tries.chance(*self._learned(number, trial), seconds / self._round_seconds([number])) >= HOPELESS

    def _learned(self, number: int, trial: Seen) -> tuple[float, float]:
        """Return the epochs that a cut was taught, and the drop that was left at last."""
        return sum(self._epochs(number)), trial.drop or 0.0

    def _seen(self, number: int, seen: dict[str, Seen]) -> list[Seen]:
        """Return what was measured of a cut after each round of teaching."""
        candidates = [self._taught(number, rung) for rung in self._rungs if number in rung.epochs]
        trials = [seen[candidate.key] for candidate in candidates if candidate.key in seen]
        return [trial for trial in trials if trial.medians and trial.drop is not None]

    def _epochs(self, number: int) -> tuple[float, ...]:
        return tuple(rung.epochs[number] for rung in self._rungs if number in rung.epochs)

    def _add(self, before: dict[int, tuple[float, ...]], seconds: float) -> bool:
        """Add a round of about so many seconds for as many of the cuts as it can teach, the first ones; say if any."""
        if (count := self._taught_before(before)) is None:
            while before and (each := self._round_seconds(before)) > seconds:
                before = dict(list(before.items())[:-1])
            count = min(int(PARTS * seconds / max(each, 1e-9)) / PARTS, MOST_EPOCHS) if before else 0
        if count:
            self._rungs.append(_Rung(dict.fromkeys(before, count), before))
        return bool(count)

    def _for_teaching(self) -> float:
        """Return how much of the spare time teaching may take: none where the run is late."""
        seconds = self._deadline - self.clock()
        most = max(SHARE * seconds, seconds - LATER * self._trial)
        return max(min(most, seconds - MEASURED * self._trial), 0.0)

    def _round_seconds(self, numbers: Iterable[int]) -> float:
        """Return what an epoch of each takes."""
        return sum(self._epoch_seconds(self.cuts[number]) for number in numbers)

    def _epoch_seconds(self, cut: Cut) -> float:
        return self._pace * self.epoch_seconds(cut)

    def _seen_pace(self, seen: dict[str, Seen]) -> float:
        """Return what the rounds so far took over what a few steps foretold, as far as it can be believed."""
        told = taken = 0.0
        for rung in self._rungs:
            for number, epochs in rung.epochs.items():
                taught = seen.get(self._taught(number, rung).key)
                untaught = seen.get(self._untaught(self.cuts[number]).key)
                if taught is not None and untaught is not None:
                    told += epochs * self.epoch_seconds(self.cuts[number])
                    taken += max(taught.seconds - untaught.seconds, 0.0)
        return min(max(taken / told, LEAST_PACE), MOST_PACE) if told else 1.0

    def _taught_before(self, before: dict[int, tuple[float, ...]]) -> float | None:
        """Return the epochs that an earlier process gave to this round."""
        if self.past:
            for count in (part / PARTS for part in range(PARTS, PARTS * MOST_EPOCHS + 1)):
                rung = _Rung(dict.fromkeys(before, count), before)
                if any(self._taught(number, rung).key in self.past for number in before):
                    return count
        return None


def _still_learns(trials: Sequence[Seen]) -> bool:
    """Say whether the last round brought a cut nearer to the original, if it had more than one."""
    drops = [trial.drop or 0.0 for trial in trials]
    return len(drops) < 2 or drops[-1] < drops[-2]


def spread(items: Sequence[int], count: int) -> list[int]:
    """Return so many of the items, evenly spread, the first and the last among them where they are three or more."""
    if len(items) <= count:
        return list(items)
    if count <= 2:
        return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]

"""Tries: a few steps of teaching say which smaller network is likely to get inside the budget in the time there is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

from leanly.recipe import Pass

LEARNING = 0.65
"""Power of the rows seen with which the drop falls: 0.56 and 0.68 in MiniLM without four and two of its six layers."""
AGAIN = 0.2
"""The same where rows are seen again: ResNet-56 without 14 of its 25 blocks lost as much after 3.4 epochs as after one.
"""
SPREAD = 0.7
"""Standard deviation of the logarithm of a drop that was foreseen so."""
HOPELESS, SURE = 0.03, 0.9
"""Chances from which on what is cut further, or less far, need not be tried."""
DRAWS = tuple(NormalDist().inv_cdf((place + 0.5) / 64) for place in range(64))
"""Evenly likely values of a standard normal variable."""
SHARE = 0.15
"""Of the time for teaching, after which nothing more is tried."""


@dataclass(frozen=True)
class Cut:
    """Passes that make the network smaller.

    Args:
        label: how people read it: "half of the channels".
        passes: the passes.
        features: what hidden values count while it is taught.
        restored: passes between the cut and its teaching; they change no shape.
    """

    label: str
    passes: tuple[Pass, ...]
    features: float = 0.0
    restored: tuple[Pass, ...] = ()


@dataclass
class Tries:
    """Chances of smaller networks, each tried once at most.

    The drop is foreseen to fall as a power of the rows that are seen (Hestness et al. 2017, "Deep Learning Scaling is
    Predictable, Empirically"), a smaller one where they are seen again: what an epoch leaves is what the smaller
    network can't hold, for the most part. By how much that was wrong of the cuts that were taught is made good for the
    others: they are cut from the same network and learn from the same rows. Rows tell a drop as far as their noise
    lets them, so that on few of them a network has to be better than the original to be inside.

    Args:
        probe: (cut, seconds for teaching) -> epochs of a short try, and the drop that is left after it.
        largest: the largest drop on the rows that judge which is inside, in the metric's units.
        noise: standard error of a drop on these rows.
    """

    probe: Callable[[Cut, float], tuple[float, float]]
    largest: float
    noise: float
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def chances(
        self,
        cuts: Sequence[Cut],
        taught: Mapping[str, tuple[float, float]],
        epoch_seconds: Callable[[Cut], float],
        seconds: float,
    ) -> dict[str, float]:
        """Return by label the chance of each cut to be inside; what need not, or can't, be tried is left out.

        Args:
            cuts: the least cut first.
            taught: by label, epochs that a cut was taught, and its drop then.
            epoch_seconds: cut -> seconds of an epoch of teaching.
            seconds: of teaching.
        """
        found: dict[str, float] = {}
        wrong = self._wrong(taught)
        known = {label: (epochs, wrong * drop) for label, (epochs, drop) in self._seen.items()} | dict(taught)
        left = list(cuts)
        began = time.monotonic()
        while left:
            cut = left[len(left) // 2]
            if cut.label not in known and time.monotonic() - began <= SHARE * seconds:
                epochs, drop = self._seen[cut.label] = self.probe(cut, seconds)
                known[cut.label] = epochs, wrong * drop
            place = cuts.index(cut)
            if cut.label not in known:
                left.remove(cut)
                continue
            chance = found[cut.label] = self.chance(*known[cut.label], seconds / epoch_seconds(cut))
            skipped = {place, *(range(place, len(cuts)) if chance < HOPELESS else ())}
            skipped |= set(range(place)) if chance > SURE else set()
            left = [other for other in left if cuts.index(other) not in skipped]
        return found

    def chance(self, epochs: float, drop: float, more: float) -> float:
        """Return the chance of a network that has a drop after some epochs to be inside after so many more."""
        foreseen = _foreseen(epochs, drop, epochs + more) if drop > 0 else drop
        seen = NormalDist(self.largest, self.noise)
        return sum(1 - seen.cdf(foreseen * math.exp(SPREAD * draw)) for draw in DRAWS) / len(DRAWS)

    def _wrong(self, taught: Mapping[str, tuple[float, float]]) -> float:
        """Return what the cuts that were taught lost over what their tries foretold; 1 where there is none of both."""
        least = self.noise  # below it one drop is as good as another
        logs = [
            math.log(max(drop, least) / max(_foreseen(*self._seen[label], epochs), least))
            for label, (epochs, drop) in taught.items()
            if label in self._seen
        ]
        return math.exp(sum(logs) / len(logs)) if logs else 1.0


def _foreseen(epochs: float, drop: float, after: float) -> float:
    """Return the drop after so many epochs in all, of a network that had one after fewer."""
    new = min(epochs, 1.0) / min(after, 1.0)
    again = max(epochs, 1.0) / max(after, 1.0)
    return drop * new**LEARNING * again**AGAIN

"""What the driver is handed: a family of candidates, instruments that measure, and someone to tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from leanly.artifact import Artifact
from leanly.families.candidate import Candidate
from leanly.measurement.records import Interval, Latency, Measurement, Verdict
from leanly.search.trial import Trial

START = "start"
"""The kind of step inside measuring that instruments may tell the forecast: starting a process."""


class Family(Protocol):
    """Which candidates to try, and how to make one; networks, trees and rules each have their own."""

    def reference(self) -> Candidate:
        """Name the model as it came: float32 in eager PyTorch for a network."""
        ...

    def propose(self, trials: Sequence[Trial], seconds: float) -> Candidate | None:
        """Return the most promising candidate not tried yet, judged by the trials so far; None ends it.

        Args:
            trials: what was tried.
            seconds: that may still be spent before the final measurements.
        """
        ...

    def build(self, candidate: Candidate, to: Path) -> Artifact:
        """Make a candidate's artifact in the folder `to`, whole or not at all.

        Raises:
            LeanlyError: it can't be made; the run goes on without it.
        """
        ...

    def remarks(self, trials: Sequence[Trial]) -> Sequence[str]:
        """Say what else a reader of the outcome should know, each a part of a sentence."""
        ...


@dataclass(frozen=True)
class Instruments:
    """The functions that measure and judge; tests hand in their own.

    Args:
        measure: (artifact, anchor, seconds) -> what was measured on `validation`, with a short timing; with an anchor
            the two are timed in turns, and the ratio of their latencies comes too, by batch size.
        retime: (artifacts, seconds, processes of each) -> fresh timings of all of them in turns, by batch size.
        prove: artifact -> predictions and metric on `test`, without timing.
        judge: (reference, candidate, confidence), both on the same split -> the verdict on the drop.
    """

    measure: Callable[[Artifact, Artifact | None, float], tuple[Measurement, dict[int, Interval]]]
    retime: Callable[[Sequence[Artifact], float, int], list[dict[int, Latency]]]
    prove: Callable[[Artifact], Measurement]
    judge: Callable[[Measurement, Measurement, float], Verdict]


@dataclass(frozen=True)
class CertifyingSplit:
    """What the driver needs to know of the test split: its hash, and how its size compares with `validation`."""

    digest: str
    rows: int
    scale: float
    """Rows of `test` over rows of `validation`."""


class Listener(Protocol):
    """Someone who is told how the run goes on."""

    def begin(self, what: str, expected: float, left: float) -> None:
        """A step begins: what it is, the seconds it will take, the seconds left of the budget."""
        ...

    def trial(self, trial: Trial, best: Trial | None, left: float) -> None:
        """A trial ended."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line."""
        ...

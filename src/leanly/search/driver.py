"""The search: one candidate after another, made, measured, judged and written down, until the time or the ideas end.

The driver knows nothing of networks: what to try comes from the family, how to measure from the instruments.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from leanly.budget import Budget
from leanly.errors import LeanlyError, LeanlyWarning
from leanly.families.candidate import PLAN, Candidate
from leanly.measurement.latency import WARM_SECONDS
from leanly.search import words
from leanly.search.folder import RunFolder
from leanly.search.forecast import Forecast
from leanly.search.journal import Journal
from leanly.search.protocols import START, CertifyingSplit, Family, Instruments, Listener
from leanly.search.replay import MEASUREMENT, write_trial
from leanly.search.trial import Trial

MEASURE_SHARE, MEASURE_LEAST, MEASURE_MOST = 0.01, 0.3, 4.0
"""The short timing of a trial: its share of the whole time, and its limits in seconds."""

RETIME_SHARE, RETIME_LEAST, RETIME_MOST = 0.1, 1.0, 60.0
"""The same for the timing of the finalists together."""

RESERVE_MOST = 0.5
"""The end of the run is never given more than this share of the time."""

EXPECTED_FINALISTS = 4
"""Artifacts that the reserve pays for: the reference, float32, the whole network and a smaller one."""

PLAN_SECONDS = 0.5
"""What running the same files otherwise takes to prepare, before it was seen: they are copied."""


TOLD = 3
"""Candidates that were not tried of which people are told while it runs; the report names all."""


@dataclass
class Search:
    """All that the search and its finale work with.

    Args:
        family: what to try and how to make it.
        instruments: how to measure and judge.
        budget: what may be spent.
        batch_sizes: the batch sizes that are timed.
        folder: where the run lies.
        journal: where every trial is written down.
        forecast: the clock.
        listener: who is told.
        test: the split that certifies; None when there is none.
        past: trials of an earlier process, by the key of their candidate; reused when the family proposes them again.
    """

    family: Family
    instruments: Instruments
    budget: Budget
    batch_sizes: tuple[int, ...]
    folder: RunFolder
    journal: Journal
    forecast: Forecast
    listener: Listener
    test: CertifyingSplit | None = None
    past: dict[str, Trial] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def __post_init__(self) -> None:
        # a trial of a killed process left a folder but no line: its number may be used again
        self._next = 1 + max((trial.number for trial in self.past.values()), default=-1)

    @property
    def reference(self) -> Trial:
        """The model as it came."""
        return self.trials[0]

    @property
    def measure_seconds(self) -> float:
        """Seconds of the short timing of one trial."""
        return min(max(MEASURE_SHARE * self.forecast.total, MEASURE_LEAST), MEASURE_MOST)

    @property
    def retime_seconds(self) -> float:
        """Seconds of the timing of the finalists together."""
        return min(max(RETIME_SHARE * self.forecast.total, RETIME_LEAST), RETIME_MOST)

    def prove_seconds(self, trial: Trial | None) -> float:
        """Return what predicting the test split with one artifact is expected to take."""
        if self.test is None:
            return 0.0
        taken = trial.measurement.predict_seconds if trial is not None and trial.measurement is not None else None
        if taken is None:
            taken = self.forecast.expect("measure")
        return self.start_seconds() + taken * self.test.scale

    def certify_seconds(self) -> float:
        """Return what certifying is expected to take: the reference, and the others as the fastest float."""
        reference = self.trials[0] if self.trials else None
        other = self.fastest_float() or reference
        return self.prove_seconds(reference) + (EXPECTED_FINALISTS - 1) * self.prove_seconds(other)

    def start_seconds(self) -> float:
        """Return what starting the process of an artifact is expected to take."""
        return self.forecast.seen(START) or self.forecast.expect("open")

    def warm_seconds(self) -> float:
        """Return the most that warming one finalist up for its timing takes."""
        each = self.retime_seconds / (EXPECTED_FINALISTS * len(self.batch_sizes))
        return min(each, WARM_SECONDS) * len(self.batch_sizes)

    def reserve(self) -> float:
        """Return the seconds kept back for the end: the finalists timed together and certified."""
        needed = self.retime_seconds + EXPECTED_FINALISTS * (self.start_seconds() + self.warm_seconds())
        needed += self.certify_seconds()
        return min(needed, RESERVE_MOST * self.forecast.total)

    def spare(self) -> float:
        """Return the seconds that may be spent before the end is due."""
        return self.forecast.left - self.reserve()

    def explore(self) -> None:
        """Try candidates until the family has no more or the time is needed for the end.

        Raises:
            LeanlyError: the reference itself can't be made or measured.
        """
        try:
            self._first()
            while (candidate := self.family.propose(self.trials, self.spare())) is not None:
                self._one(candidate)
        except KeyboardInterrupt:
            if not self.trials:
                raise
            self.interrupted = True
            self.notes.append("the search was interrupted (Ctrl-C): what had been measured by then was finished")
            self.listener.say("interrupted: finishing with what was measured (Ctrl-C again stops at once)")
            return
        self.notes.extend(self.family.remarks(self.trials))
        if skipped := sum(map(is_skipped, self.trials)):
            self.notes.append(f"{skipped} candidates were not tried: the time was too short")
            tried = [trial for trial in self.trials[1:] if trial.artifact]
            if all(trial.candidate.unmodified for trial in tried):
                only = "the unmodified model in other runtimes" if tried else "the model as it came"
                self.notes.append(f"the time was too short for anything but {only}")

    def _first(self) -> None:
        candidate = self.family.reference()
        if (trial := self._again(candidate)) is not None:
            self.trials.append(trial)
            self._tell(trial)
            return
        self._keep(self._make(self._begin(candidate), candidate))

    def _one(self, candidate: Candidate) -> None:
        if (trial := self._again(candidate)) is not None:
            self.trials.append(trial)
            self._tell(trial)
            return
        expected = self._expect(candidate)
        spare = self.spare()
        if expected > spare and not (self._needs_float(candidate) and self.forecast.left > 0):
            reason = (
                f"not tried: it would take about {words.seconds(expected)}, and {words.seconds(max(spare, 0.0))} "
                "are left before the final measurements"
            )
            self.trials.append(Trial(self._number(), candidate, "dropped", reason))
            if (count := sum(is_skipped(other) for other in self.trials)) <= TOLD:
                more = "; what else does not fit is named in the report" if count == TOLD else ""
                self.listener.say(f"{candidate.label}: {reason}{more}")
            return
        self._keep(self._attempt(candidate))

    def _needs_float(self, candidate: Candidate) -> bool:
        """Whether a candidate is the first float artifact: without one there is nothing to end with."""
        return candidate.unmodified and not any(trial.artifact for trial in self.trials[1:])

    def _expect(self, candidate: Candidate) -> float:
        if candidate.plans:
            return (self.forecast.seen(PLAN) or PLAN_SECONDS) + self.forecast.expect("measure")
        # the kinds seen of the same precision are the nearest relatives: calibration is what takes the time
        like = tuple(
            trial.candidate.kind
            for trial in reversed(self.trials)
            if trial.precision == candidate.precision
            and trial.artifact
            and trial.runtime != "torch"
            and not trial.candidate.training
        )
        if candidate.training:
            build = candidate.training + self.forecast.expect("", like=like, prior=candidate.prior)
        else:
            build = self.forecast.expect(candidate.kind, like=like, prior=candidate.prior)
        return build + self.forecast.expect("measure")

    def _number(self) -> int:
        number = self._next
        self._next += 1
        return number

    def _begin(self, candidate: Candidate) -> int:
        expected = self._expect(candidate) if self.trials else 0.0
        self.listener.begin(candidate.label, expected, self.forecast.left)
        return self._number()

    def _make(self, number: int, candidate: Candidate) -> Trial:
        """Build, measure and judge a candidate."""
        began = self.forecast.clock()
        folder = self.folder.trial(number)
        with self.forecast.step(candidate.kind):
            artifact = self.family.build(candidate, folder / "artifact")
        anchor = self.fastest_float()
        with self.forecast.step("measure"):
            measurement, ratio = self.instruments.measure(
                artifact, anchor.artifact if anchor else None, self.measure_seconds
            )
        measurement.save(folder / MEASUREMENT)
        self.forecast.see("open", measurement.open_seconds)
        trial = Trial(number, candidate, "measured", artifact=artifact, measurement=measurement, ratio=ratio)
        steady = {size: interval.value * anchor.medians[size] for size, interval in ratio.items()} if anchor else {}
        return self.judged(trial.replace(steady=steady, seconds=self.forecast.clock() - began))

    def _attempt(self, candidate: Candidate) -> Trial:
        number = self._begin(candidate)
        began = self.forecast.clock()
        try:
            return self._make(number, candidate)
        except LeanlyError as error:
            trial = Trial(number, candidate, "failed", str(error))
        except Exception as error:
            # a fault of ours or of a library in one candidate must not take the others along; it is told, not hidden
            lines = str(error).strip().splitlines() or [""]
            reason = f"unexpected {type(error).__name__}: {lines[0][:300]}"
            trial = Trial(number, candidate, "failed", reason)
            warnings.warn(f"{candidate.label}: {reason}. What to do: please report it.", LeanlyWarning, stacklevel=2)
        return trial.replace(seconds=self.forecast.clock() - began)

    def judged(self, trial: Trial) -> Trial:
        """Return a measured trial with its verdict on `validation`, dropped with the reason where it is weak."""
        if trial.measurement is None:
            return trial
        reference = self.trials[0] if self.trials else trial
        if reference.measurement is None:
            return trial
        verdict = self.instruments.judge(reference.measurement, trial.measurement, self.budget.confidence)
        trial = trial.replace(verdict=verdict, state="measured", reason="")
        if trial.number == reference.number:
            return trial
        if verdict.outcome == "fail":
            return trial.replace(state="dropped", reason=f"outside the budget on validation: {verdict.reason}")
        if trial.ratio and all(interval.low > 1.0 for interval in trial.ratio.values()):
            times = " and ".join(f"{words.times(interval)} at batch {size}" for size, interval in trial.ratio.items())
            return trial.replace(state="dropped", reason=f"slower: takes {times} the time of the fastest float then")
        return trial

    def _again(self, candidate: Candidate) -> Trial | None:
        trial = self.past.pop(candidate.key, None)
        return None if trial is None else self.judged(trial)

    def _keep(self, trial: Trial) -> None:
        write_trial(self.journal, trial, self.folder.path)
        self.trials.append(trial)
        self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        self.listener.trial(trial, self.best_so_far(), self.forecast.left)

    def trial(self, number: int) -> Trial:
        """Return the trial with a number."""
        return next(trial for trial in self.trials if trial.number == number)

    def put(self, trial: Trial) -> None:
        """Put a trial in the place of the one with its number."""
        self.trials = [trial if other.number == trial.number else other for other in self.trials]

    def fastest_float(self) -> Trial | None:
        """Return the unmodified model's fastest float artifact so far, over all batch sizes."""
        floats = [trial for trial in self.trials if is_float(trial) and trial.latency]
        return min(floats, key=self.mean_latency, default=None)

    def best_so_far(self) -> Trial | None:
        """Return the fastest trial so far that is not outside the budget on `validation`."""
        good = [trial for trial in self.trials if trial.latency and trial.verdict and trial.verdict.outcome != "fail"]
        return min(good, key=self.mean_latency, default=None)

    def mean_latency(self, trial: Trial) -> float:
        """Return the product of a trial's median latencies: it orders as their geometric mean does."""
        product = 1.0
        for size in self.batch_sizes:
            product *= trial.medians[size]
        return product


def is_float(trial: Trial) -> bool:
    """Whether a trial is the unmodified model in a float format, fit to be compared with.

    float32 always is; another float format changes the numbers, so it counts unless it is outside the budget.
    """
    if not trial.candidate.unmodified or trial.artifact is None:
        return False
    return trial.precision == "float32" or (trial.verdict is not None and trial.verdict.outcome != "fail")


def is_skipped(trial: Trial) -> bool:
    """Whether a candidate was not tried, since it would have taken longer than the time left."""
    return trial.artifact is None and trial.state == "dropped"

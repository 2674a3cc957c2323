"""A family, instruments and a clock of numbers, so that the search is tested without a model and without waiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from leanly.artifact import DESCRIPTION, Artifact
from leanly.budget import Budget
from leanly.errors import LoweringError
from leanly.files import replacing_folder
from leanly.measurement.records import Interval, Latency, Measurement, Verdict
from leanly.quantize import Static
from leanly.recipe import Recipe
from leanly.search import Candidate, Outcome, Search, Trial
from leanly.search.finale import Finale
from leanly.search.folder import RunFolder, begin_run, check_run, describe_run
from leanly.search.forecast import Forecast
from leanly.search.journal import Journal
from leanly.search.protocols import CertifyingSplit, Instruments
from leanly.search.replay import past_trials
from leanly.search.sentence import verdict_sentence
from leanly.structure import TensorSpec
from leanly.target import Target

SIZES = (1, 16)
opened: list[Journal] = []
"""Journals to be closed when a test ends."""


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Idea:
    """A candidate and what it will turn out to be."""

    name: str
    latency: float
    """Seconds at batch 1; batch 16 takes four times as long, unless `latency16` says otherwise."""
    metric: float
    test: float | None = None
    """The metric on test; as on validation where it is not given."""
    precision: str = "int8"
    build: float = 1.0
    fails: bool = False
    latency16: float | None = None
    prior: float = 0.0
    network: str = ""

    @property
    def candidate(self) -> Candidate:
        number = sum(self.name.encode())
        recipe = Recipe((Static(samples=number),)) if self.precision == "int8" else Recipe()
        return Candidate(
            self.name, recipe, "onnxruntime", self.precision, rest=self.name, network=self.network, prior=self.prior
        )

    def seconds(self, size: int) -> float:
        return self.latency if size == 1 else self.latency16 or 4 * self.latency


EAGER = Idea("eager", 0.010, 0.90, precision="float32")
FLOAT = Idea("float32 onnxruntime", 0.004, 0.90, precision="float32")
FAST = Idea("int8 fast", 0.001, 0.895)


@dataclass
class World:
    """What there is to try, and a record of what was done."""

    ideas: Sequence[Idea]
    clock: Clock = field(default_factory=Clock)
    built: list[str] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    retimed: list[list[str]] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    interrupt_at: str = ""
    allowed: float = 0.01
    measure_seconds: float = 1.0
    noise: float = 0.01
    strict: float = 0.0
    """By how much of `allowed` a drop has to be lower to pass at half of the error rate."""
    pace: dict[str, float] = field(default_factory=dict)
    """How many times slower the machine is while an idea is measured."""

    def idea(self, artifact: Artifact) -> Idea:
        return next(idea for idea in (EAGER, *self.ideas) if idea.name == artifact.notes[0])

    # the family
    def reference(self) -> Candidate:
        return EAGER.candidate

    def propose(self, trials: Sequence[Trial], seconds: float) -> Candidate | None:
        tried = {trial.label for trial in trials}
        return next((idea.candidate for idea in self.ideas if idea.name not in tried), None)

    def build(self, candidate: Candidate, to: Path) -> Artifact:
        idea = next(idea for idea in (EAGER, *self.ideas) if idea.name == candidate.label)
        self.built.append(idea.name)
        if idea.name == self.interrupt_at:
            raise KeyboardInterrupt
        self.clock.now += idea.build
        if idea.fails and idea.metric < 0:
            raise RuntimeError("a fault")
        if idea.fails:
            raise LoweringError("the exporter failed", where=idea.name)
        spec = (TensorSpec("x", "float32", ("batch", 4)),)
        with replacing_folder(to, DESCRIPTION, "an artifact") as folder:
            (folder / "model").write_bytes(b"m" * int(idea.latency * 1e6))
            artifact = Artifact(folder, "onnxruntime", idea.precision, ("model",), spec, spec, 0, 0, notes=(idea.name,))
            artifact.save()
        return Artifact.open(to)

    def remarks(self, trials: Sequence[Trial]) -> list[str]:
        return []

    # the instruments
    def _latency(self, idea: Idea) -> dict[int, Latency]:
        # each has noise of its own, with a median of 1
        noise = np.random.default_rng(sum(idea.name.encode())).normal(0, self.noise, 11)
        wobble = np.exp(noise - np.median(noise))
        return {size: Latency(size, tuple((idea.seconds(size) * float(w),) for w in wobble)) for size in SIZES}

    def measure(
        self, artifact: Artifact, anchor: Artifact | None, seconds: float
    ) -> tuple[Measurement, dict[int, Interval]]:
        self.clock.now += self.measure_seconds
        idea = self.idea(artifact)
        ratio = {}
        if anchor is not None:
            other = self.idea(anchor)
            ratio = {size: near(idea.seconds(size) / other.seconds(size)) for size in SIZES}
        measured = self._measurement(idea, "validation", idea.metric)
        slower = self.pace.get(idea.name, 1.0)
        latency = {
            size: Latency(size, tuple((slower * block[0],) for block in latency.blocks))
            for size, latency in measured.latency.items()
        }
        return replace(measured, latency=latency), ratio

    def _measurement(self, idea: Idea, split: str, metric: float) -> Measurement:
        return Measurement(
            "onnxruntime", idea.precision, 1, self._latency(idea) if split == "validation" else {}, 0.1, 1000, 100,
            split=split, metric=metric, predictions=np.zeros((3, 2), np.float32),
        )  # fmt: skip

    def retime(self, artifacts: Sequence[Artifact], seconds: float, processes: int) -> list[dict[int, Latency]]:
        self.clock.now += seconds
        self.processes.append(processes)
        self.retimed.append([artifact.notes[0] for artifact in artifacts])
        return [self._latency(self.idea(artifact)) for artifact in artifacts]

    def prove(self, artifact: Artifact) -> Measurement:
        self.clock.now += self.measure_seconds
        idea = self.idea(artifact)
        self.proven.append(idea.name)
        return self._measurement(idea, "test", idea.metric if idea.test is None else idea.test)

    def judge(self, reference: Measurement, candidate: Measurement, confidence: float) -> Verdict:
        assert reference.split == candidate.split
        assert reference.metric is not None and candidate.metric is not None
        drop = reference.metric - candidate.metric
        most = 0.8 - (self.strict if confidence > 0.96 else 0.0)
        outcome = "pass" if drop <= self.allowed * most else "undecided" if drop <= self.allowed * 1.2 else "fail"
        interval = Interval(drop, drop - 0.002, drop + 0.002)
        return Verdict(outcome, f"the drop is {drop:.4f}", interval, drop + 0.002, "fake", 100, 0.01)

    # the listener
    def begin(self, what: str, expected: float, left: float) -> None:
        pass

    def trial(self, trial: Trial, best: Trial | None, left: float) -> None:
        self.said.append(trial.label)

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        pass


def near(value: float) -> Interval:
    return Interval(value, value * 0.98, value * 1.02)


def begin(
    world: World, out: Path, *, time: float = 60.0, test: bool = True, resume: bool = False, **budget: float
) -> Search:
    """Make a search over a world, in a real run folder."""
    wanted = Budget(max_drop=world.allowed, time=time, **budget)  # type: ignore[arg-type]
    target = Target(threads=1, batch_sizes=SIZES)
    folder = RunFolder(out)
    about = describe_run(fingerprint="f", name="fake", metric="accuracy", budget=wanted, target=target, seed=0)
    check_run(folder, about, resume=resume)
    begin_run(folder, about)
    journal = Journal(folder.journal)
    opened.append(journal)
    return Search(
        family=world,
        instruments=Instruments(world.measure, world.retime, world.prove, world.judge),
        budget=wanted,
        batch_sizes=SIZES,
        folder=folder,
        journal=journal,
        forecast=Forecast(wanted.seconds, world.clock),
        listener=world,
        test=CertifyingSplit("digest", 100, 1.0) if test else None,
        past=past_trials(journal.events, folder.path),
    )


def outcome_of(search: Search, finale: Finale, **changes: Any) -> Outcome:
    """Make the outcome that the pipeline would make."""
    about = search.folder.read()
    settings: dict[str, Any] = {
        "run": search.folder.path,
        "task": "fake",
        "metric": "accuracy",
        **{key: about[key] for key in ("budget", "target", "machine", "versions")},
        "trials": tuple(search.trials),
        "front": finale.front,
        "walk": tuple(finale.walk),
        "choices": finale.choices,
        "speedup": finale.speedup,
        "test": {"digest": "d" * 64, "rows": 100, "uses": 1} if search.test else None,
        "missed": finale.missed,
        "notes": tuple(search.notes),
        "seconds": search.forecast.spent,
        "finished": True,
    }
    made = Outcome(**{**settings, **changes})
    return replace(made, sentence=verdict_sentence(made))

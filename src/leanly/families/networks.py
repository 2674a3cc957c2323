"""Networks: which recipes to try in which runtime, the most promising first, and how to make one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from leanly.artifact import Artifact
from leanly.distill import Distill
from leanly.families.candidate import (
    INTEGER_RUNTIMES,
    Candidate,
    Seen,
    integer_runtimes,
    mean_latency,
    parts,
    static_of,
)
from leanly.families.cuts import cuts
from leanly.families.integers import Integers
from leanly.families.ladder import Ladder
from leanly.families.making import Maker
from leanly.families.plans import other_ways
from leanly.families.teaching import Teaching
from leanly.families.tries import Cut, Tries
from leanly.graph import Graph
from leanly.recipe import Pass, Recipe
from leanly.target import Target

if TYPE_CHECKING:
    from leanly.task import Task

COMPILE_SECONDS = 25.0
"""What torch.compile takes at least: it builds kernels for each batch size, twice (once to prove, once to measure)."""
AS_FAST = 1.25
"""An artifact inside the budget that takes at most so many times as long as the fastest is accurate enough to go on."""
PROMISING = 0.5
"""Share of the drop allowed that a smaller network may lose: its integers lose some too, and rows tell only so much."""


class Networks:
    """The family of neural networks.

    Args:
        graph: the captured model, in eval mode.
        task: gives the calibration data.
        target: allowed runtimes, and what the machine is good at.
        graphs: folder in which graphs that took long to train are kept; None keeps none.
        smaller: whether smaller networks are tried, where the task has training rows.
        past: keys of the candidates that an earlier process of the run measured.
        max_drop: of the budget, in the metric's units.
        timed: `(graph, artifact) -> seconds by node`, measured: says which layers are dear in float.
    """

    def __init__(
        self,
        graph: Graph,
        task: Task,
        target: Target,
        graphs: Path | None = None,
        *,
        smaller: bool = True,
        past: Collection[str] = (),
        max_drop: float = 0.01,
        timed: Callable[[Graph, Artifact], Mapping[str, float]] | None = None,
    ) -> None:
        self._graph, self._task, self._target, self._past = graph, task, target, frozenset(past)
        self._max_drop = max_drop
        self._may_be_smaller = smaller and task.split("train") is not None
        self._ladder: Ladder | None = None
        self._runtimes = integer_runtimes(target)
        self._maker = Maker(graph, task, target, graphs)
        self._teaching = Teaching(graph, task, target)
        self._integers = Integers(self._maker, task, target, self._teaching, timed)

    def reference(self) -> Candidate:
        """Name the float32 model in eager PyTorch."""
        return Candidate("float32 eager PyTorch", Recipe(), "torch", "float32", eager=True)

    def propose(self, trials: Sequence[Seen], seconds: float) -> Candidate | None:
        """Return the most promising candidate not tried yet."""
        tried = {trial.candidate.key for trial in trials}
        return next((idea for idea in self._ideas(trials, seconds) if idea.key not in tried), None)

    def build(self, candidate: Candidate, to: Path) -> Artifact:
        """Apply the recipe and lower the outcome into a folder.

        Raises:
            LeanlyError: a pass or the lowering fails.
        """
        return self._maker.build(candidate, to)

    def _ideas(self, trials: Sequence[Seen], seconds: float) -> Iterator[Candidate]:
        """Yield every idea in order, tried ones too; what was seen decides which ideas come at all."""
        yield from self._floats()
        yield from self._integers.first(trials)
        measured = [
            trial
            for trial in trials
            if trial.medians and trial.candidate.precision == "int8" and not trial.candidate.network
        ]
        yield from self._integers.others_quantizers(measured)
        fastest = min(measured, key=mean_latency, default=None)
        passing = [trial for trial in measured if trial.outcome == "pass"]
        if fastest is not None and not any(mean_latency(trial) <= AS_FAST * mean_latency(fastest) for trial in passing):
            yield from self._integers.more_accurate(fastest.candidate, measured)
            yield from self._integers.mended(fastest.candidate, trials)
        yield from self._smaller(trials, seconds)
        yield from other_ways(self._target, trials)
        yield from self._integers.others_quantizers(measured, everywhere=True)
        if passing:
            yield from self._integers.variants(min(passing, key=mean_latency).candidate)
        yield from self._integers.packed_weights()
        if "torch" in self._target.allowed():
            yield Candidate("float32 torch.compile", Recipe(), "torch", "float32", prior=COMPILE_SECONDS)

    def _floats(self) -> Iterator[Candidate]:
        for runtime in self._runtimes:
            yield Candidate(f"float32 {runtime}", Recipe(), runtime, "float32")
        if "openvino" in self._runtimes and self._target.bf16:
            yield Candidate("bfloat16 openvino", Recipe(), "openvino", "bfloat16")

    def _smaller(self, trials: Sequence[Seen], seconds: float) -> Iterator[Candidate]:
        """Smaller networks, taught by the original, as the fastest artifact inside the budget is quantized and run."""
        whole = self._fastest_whole(trials)
        if whole is None or not self._may_be_smaller:
            return
        if self._ladder is None:
            self._ladder = self._make_ladder(whole.candidate)
        yield from self._ladder.ideas(trials, whole, seconds)
        for winner in self._ladder.winners(trials)[:1]:
            if winner.candidate.precision == "int8":
                yield from self._other_integers(winner.candidate)
                yield from self._in_float(winner.candidate)

    def _other_integers(self, winner: Candidate) -> Iterator[Candidate]:
        """The smaller network with its quantizers placed as each runtime wants them, in each runtime."""
        static, passes = static_of(winner), winner.recipe.passes
        place = passes.index(static)
        for runtime in self._runtimes:
            for kernels in INTEGER_RUNTIMES:
                yield self._integers.named(
                    replace(static, kernels=kernels),
                    runtime,
                    before=passes[:place],
                    network=winner.network,
                    after=passes[place + 1 :],
                )

    def _in_float(self, winner: Candidate) -> Iterator[Candidate]:
        """The smaller network without integers: in a small one the nodes that round may take longer than they save."""
        taught, _ = parts(winner.recipe)
        for runtime in self._runtimes:
            yield Candidate(
                f"{winner.network}, float32 {runtime}",
                Recipe(taught),
                runtime,
                "float32",
                network=winner.network,
            )

    def _fastest_whole(self, trials: Sequence[Seen]) -> Seen | None:
        """The fastest artifact of the whole network inside the budget, run in its runtime's own way."""
        good = [
            trial
            for trial in trials
            if trial.medians
            and trial.outcome == "pass"
            and trial.candidate.runtime in INTEGER_RUNTIMES
            and not trial.candidate.network
            and not trial.candidate.plans
        ]
        return min(good, key=mean_latency, default=None)

    def _make_ladder(self, whole: Candidate) -> Ladder:
        def candidate(passes: tuple[Pass, ...], network: str, training: float) -> Candidate:
            recipe = Recipe((*passes, *whole.recipe.passes))
            return replace(whole, label=f"{network}, {whole.label}", network=network, recipe=recipe, training=training)

        # asked for again whenever something is proposed, and each takes a cut or some steps of training
        @functools.cache
        def capacity(cut: Cut) -> float:
            return self._maker.outcome(Recipe(cut.passes)).cost().macs

        @functools.cache
        def seconds(cut: Cut) -> float:
            student = self._maker.outcome(Recipe(cut.passes))
            return self._teaching.epoch_seconds(student, hidden=cut.features > 0)

        def probe(cut: Cut, spare: float) -> tuple[float, float]:
            student = self._maker.outcome(Recipe(cut.passes))
            return self._teaching.probe(student, spare, seconds(cut), cut.features)

        return Ladder(
            cuts=cuts(self._graph),
            candidate=candidate,
            teach=lambda cut, epochs, place: Distill(
                teacher="original",
                epochs=epochs,
                features=cut.features,
                settings=replace(self._teaching.settings, seed=self._teaching.settings.seed + place),
            ),
            capacity=capacity,
            epoch_seconds=seconds,
            past=self._past,
            tries=Tries(probe, PROMISING * self._max_drop) if self._task.split("validation") is not None else None,
        )

"""Networks: which recipes to try in which runtime, the most promising first, and how to make one."""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from leanly.artifact import Artifact
from leanly.costs import CostTable
from leanly.errors import LeanlyError, LeanlyWarning
from leanly.families.allocation import COPIES, Timed, error_of, foreseen, kept_costs, measure_costs
from leanly.families.candidate import (
    INTEGER_RUNTIMES,
    Candidate,
    Seen,
    float_forms,
    integer_runtimes,
    mean_latency,
    parts,
)
from leanly.families.cuts import cuts, width_multiple
from leanly.families.integers import Integers
from leanly.families.ladder import Ladder
from leanly.families.making import Maker
from leanly.families.plans import other_ways
from leanly.families.teaching import Teaching
from leanly.families.tries import Cut, Tries
from leanly.graph import Graph
from leanly.prune import magnitude
from leanly.prune.importance import Importance
from leanly.prune.labels import ROWS as ROWS_SCORED
from leanly.quantize import Smooth, Static
from leanly.recipe import Pass, Recipe
from leanly.target import Target

if TYPE_CHECKING:
    from leanly.task import Task

COMPILE_SECONDS = 25.0
"""What torch.compile takes at least: it builds kernels for each batch size, twice (once to prove, once to measure)."""
AS_FAST = 1.25
"""An artifact inside the budget that takes at most so many times as long as the fastest is accurate enough to go on."""
DEAR = 0.03
"""Share of the spare time from which on a trial is dear: then smaller networks come before variants of the whole."""
COSTS_SHARE = 0.1
"""Of the spare time, that measuring what layers take at several widths may take."""
FORMS_WITHIN, FORMS_SHARE = 2.0, 0.2
"""Ways to run a smaller network that are compared: those in which the whole one takes at most so many times as long as
in the fastest, in this share of the spare time."""
ROWS = 16
"""Calibration rows of a network that is only timed."""
PATIENCE = 10.0
"""Seconds that each cut may wait for what its channels are worth."""
LEAST_NOISE = 1e-4
DISAGREE = 0.6
"""Rows that exactly one of a network and its student gets right, over those that the network gets wrong: 0.4 where
ResNet-56 lost 6 of its 25 blocks (CIFAR-10), 0.9 where MiniLM lost half of its MACs (SST-2)."""


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
        confidence: of the budget.
        max_bytes: of the budget; None for no limit.
        timed: times the nodes of an artifact: says which layers are dear, in float and at other widths.
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
        confidence: float = 0.95,
        max_bytes: int | None = None,
        timed: Timed | None = None,
    ) -> None:
        self._graph, self._task, self._target, self._past = graph, task, target, frozenset(past)
        self._max_drop, self._confidence, self._max_bytes = max_drop, confidence, max_bytes
        rows = task.split("train") is not None
        self._may_be_smaller, self._lacks_rows = smaller and rows, smaller and not rows
        self._ladder: Ladder | None = None
        self._table: CostTable | None = None
        self._foreseen: dict[str, float] = {}
        self._runtimes = integer_runtimes(target)
        self._maker = Maker(graph, task, target, graphs)
        self._timed = timed
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
        artifact = self._maker.build(candidate, to)
        if candidate.network and self._table is not None and candidate.network not in self._foreseen:
            taught, _ = parts(candidate.recipe)
            small = self._maker.outcome(Recipe(taught))
            self._foreseen[candidate.network] = foreseen(self._table, small) / foreseen(self._table, self._graph)
        return artifact

    def remarks(self, trials: Sequence[Seen]) -> list[str]:
        """Say why no smaller network was taught, or how near to what was measured their time was foreseen."""
        if self._lacks_rows:
            return ["no smaller network was tried: they are taught on training rows, and the task has none (train=)"]
        if self._ladder is not None and (told := self._ladder.remark()):
            return [told]
        whole = self._fastest_whole(trials)
        pairs = [
            (self._foreseen[trial.candidate.network] * mean_latency(whole), mean_latency(trial))
            for trial in trials
            if whole is not None and trial.medians and not trial.candidate.plans
            if trial.candidate.network in self._foreseen
            and parts(trial.candidate.recipe)[1] == parts(whole.candidate.recipe)[1]
        ]
        if not pairs and self._ladder is not None and self._table is None and self._timed is not None:
            return ["what layers take at other widths was not measured, for want of time, or saves none: MACs decided"]
        if not pairs:
            return []
        return [
            f"what layers take at other widths foresaw the time of smaller networks within "
            f"{error_of(pairs):.0%} (median of {len(pairs)})"
        ]

    def _ideas(self, trials: Sequence[Seen], seconds: float) -> Iterator[Candidate]:
        """Yield every idea in order, tried ones too; what was seen decides which ideas come at all."""
        yield from self._floats()
        yield from self._integers.first(trials)
        measured = [
            trial
            for trial in trials
            if trial.medians and trial.candidate.precision == "int8" and not trial.candidate.network
        ]
        if not self._may_be_smaller or all(trial.seconds <= DEAR * seconds for trial in measured):
            yield from self._integers.others_quantizers(measured)
        fastest = min(measured, key=mean_latency, default=None)
        passing = [trial for trial in measured if trial.outcome == "pass"]
        if fastest is not None and not any(mean_latency(trial) <= AS_FAST * mean_latency(fastest) for trial in passing):
            yield from self._integers.more_accurate(fastest.candidate, measured)
            yield from self._integers.mended(fastest.candidate, trials)
        if fastest is not None and self._max_bytes is not None and (fastest.bytes or 0) > self._max_bytes:
            # few-bit weights beside integers are read as bytes: only those that are decoded take less
            yield from self._integers.packed_weights()
        yield from self._smaller(trials, seconds)
        yield from other_ways(self._target, trials)
        yield from self._integers.others_quantizers(measured, everywhere=True)
        if passing:
            yield from self._integers.variants(min(passing, key=mean_latency).candidate)
        yield from self._integers.packed_weights()
        if "torch" in self._target.allowed():
            yield Candidate("float32 torch.compile", Recipe(), "torch", "float32", prior=COMPILE_SECONDS)

    def _floats(self, network: str = "", passes: tuple[Pass, ...] = ()) -> Iterator[Candidate]:
        """A network without integers, in each runtime and precision."""
        for runtime, precision in float_forms(self._runtimes, self._target):
            label = f"{network}, {precision} {runtime}" if network else f"{precision} {runtime}"
            yield Candidate(label, Recipe(passes), runtime, precision, network=network)

    def _smaller(self, trials: Sequence[Seen], seconds: float) -> Iterator[Candidate]:
        """Smaller networks, taught by the original, as the fastest artifact inside the budget is quantized and run."""
        whole = self._fastest_whole(trials)
        if whole is None or not self._may_be_smaller:
            return
        each = _first_of_its_kind(whole, trials).seconds
        if self._ladder is None:
            forms = self._forms(trials, whole)
            samples = {self._in_form(form, self._sample).key: form for form in forms}
            affordable = forms[: int(FORMS_SHARE * seconds / max(each, 1e-9))]
            if len(affordable) > 1:
                yield from (self._in_form(form, self._sample) for form in affordable)
            # the first of them were measured while there was time for more
            timed = [trial for trial in trials if trial.candidate.key in samples and trial.medians]
            best = min(timed, key=mean_latency, default=None)
            form = whole.candidate if best is None else samples[best.candidate.key]
            self._table = self._costs(form, each, seconds)
            self._ladder = self._make_ladder(form, self._table)
        yield from self._ladder.ideas(trials, mean_latency(whole), each, seconds)
        for winner in self._ladder.winners(trials)[:1]:
            yield from self._other_integers(winner.candidate)
            # in a small network the nodes that round may take longer than they save
            yield from self._floats(winner.candidate.network, parts(winner.candidate.recipe)[0])

    def _forms(self, trials: Sequence[Seen], whole: Seen) -> list[Candidate]:
        """The best way to run the whole network in each runtime and precision: another may suit a smaller one."""
        best: dict[tuple[str, str], Candidate] = {}
        for trial in sorted(self._whole_inside(trials), key=mean_latency):
            if mean_latency(trial) <= FORMS_WITHIN * mean_latency(whole):
                best.setdefault((trial.candidate.runtime, trial.candidate.precision), trial.candidate)
        return list(best.values())

    @functools.cached_property
    def _sample(self) -> Cut:
        """A cut of the middle, untaught, on which forms are compared."""
        every = cuts(self._graph, importance=self._importance)
        return every[len(every) // 2]

    @functools.cached_property
    def _importance(self) -> Importance | None:
        """The usual criterion of channels, or magnitude where each cut would wait for it."""
        train = self._task.split("train")
        assert train is not None, "smaller networks are taught on it"
        share = min(ROWS_SCORED / max(len(train), 1), 1.0) if train.counted else 1.0
        return None if share * self._teaching.whole_seconds <= PATIENCE else magnitude

    def _in_form(self, form: Candidate, cut: Cut) -> Candidate:
        return _smaller_candidate(form, cut.passes, cut.label, 0.0)

    def _other_integers(self, winner: Candidate) -> Iterator[Candidate]:
        """The smaller network with its quantizers placed as each runtime wants them, in each runtime."""
        passes = winner.recipe.passes
        if winner.precision != "int8":
            passes = (*parts(winner.recipe)[0], *self._integers.smooth, self._integers.static)
        static = next(step for step in passes if isinstance(step, Static))
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

    def _fastest_whole(self, trials: Sequence[Seen]) -> Seen | None:
        """The fastest artifact of the whole network inside the budget, run in its runtime's own way."""
        return min(self._whole_inside(trials), key=mean_latency, default=None)

    def _whole_inside(self, trials: Sequence[Seen]) -> list[Seen]:
        return [
            trial
            for trial in trials
            if trial.medians
            and trial.outcome == "pass"
            and trial.candidate.runtime in INTEGER_RUNTIMES
            and not trial.candidate.network
            and not trial.candidate.plans
        ]

    def _costs(self, candidate: Candidate, each: float, seconds: float) -> CostTable | None:
        """What layers take at several widths, run as a candidate is, where the time is long enough."""
        timed = self._timed
        if timed is None or COPIES * each > COSTS_SHARE * seconds:
            return None
        few = Recipe(_with_few_rows(candidate.recipe.passes))

        def measure() -> CostTable | None:
            with tempfile.TemporaryDirectory() as folder:

                def make(graph: Graph) -> Artifact:
                    quantized = few(graph, self._task, self._target)
                    return self._maker.lowered(quantized, candidate, Path(tempfile.mkdtemp(dir=folder)) / "made")

                multiple = width_multiple(self._graph)
                return measure_costs(self._graph, self._target, make, timed, multiple=multiple)

        nodes = [[node.name, node.operator, node.macs, node.output_shape] for node in self._graph.cost(1).nodes]
        tensors = {name: list(tensor.shape) for name, tensor in self._graph.state_dict().items()}
        machine = {**dataclasses.asdict(self._target.machine), "isa": sorted(self._target.machine.isa)}
        return kept_costs(
            {
                "nodes": nodes,
                "tensors": tensors,
                "machine": machine,
                "versions": self._target.versions(),
                "threads": self._target.threads,
                "batch sizes": self._target.batch_sizes,
                "run as": replace(candidate, recipe=few).key,
            },
            measure,
        )

    def _make_ladder(self, form: Candidate, costs: CostTable | None) -> Ladder:
        # asked for again whenever something is proposed, and each takes a cut or some steps of training
        @functools.cache
        def capacity(cut: Cut) -> float:
            return self._maker.outcome(Recipe(cut.passes)).cost().macs

        @functools.cache
        def seconds(cut: Cut) -> float:
            student = self._maker.outcome(Recipe(cut.passes))
            return self._teaching.epoch_seconds(student, hidden=cut.features > 0)

        def probe(cut: Cut, spare: float) -> tuple[float, float]:
            try:
                student = self._maker.outcome(Recipe((*cut.passes, *cut.restored)))
                return self._teaching.probe(student, spare, seconds(cut), cut.features)
            except LeanlyError as error:
                told = f"{cut.label} can't be tried and is left out: {error.what}"
                warnings.warn(f"{told}. What to do: {error.remedy}.", LeanlyWarning, stacklevel=2)
                return 1.0, math.inf

        return Ladder(
            cuts=cuts(self._graph, costs, self._importance),
            candidate=functools.partial(_smaller_candidate, form),
            teach=lambda cut, epochs, before: self._teaching.lesson(cut.features, epochs, before),
            capacity=capacity,
            epoch_seconds=seconds,
            tries=self._tries(probe),
            past=self._past,
        )

    def _tries(self, probe: Callable[[Cut, float], tuple[float, float]]) -> Tries:
        validation = self._task.split("validation")
        assert validation is not None, "it steers the search"
        wrong = min(max(1 - self._teaching.whole_metric, 0.0), 1.0)
        noise = max(math.sqrt(DISAGREE * wrong / len(validation)), LEAST_NOISE)
        return Tries(probe, self._max_drop - NormalDist().inv_cdf(self._confidence) * noise, noise)


def _smaller_candidate(form: Candidate, passes: tuple[Pass, ...], network: str, training: float) -> Candidate:
    """Name a smaller network, quantized and run as the whole one is; before it is taught only its time counts."""
    quantized = form.recipe.passes if training else _with_few_rows(form.recipe.passes)
    recipe = Recipe((*passes, *quantized))
    return replace(form, label=f"{network}, {form.label}", network=network, recipe=recipe, training=training)


def _first_of_its_kind(whole: Seen, trials: Sequence[Seen]) -> Seen:
    """Return the first trial of the whole network that ran so: later ones found parts of their work done."""
    kind = whole.candidate.runtime, whole.candidate.precision
    alike = (t for t in trials if (t.candidate.runtime, t.candidate.precision) == kind)
    return next(trial for trial in alike if trial.medians and not trial.candidate.network)


def _with_few_rows(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
    return tuple(
        replace(step, samples=min(step.samples, ROWS)) if isinstance(step, Static | Smooth) else step for step in passes
    )

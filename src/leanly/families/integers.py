"""Integers: which quantizations of the whole network to try, and how one that loses too much is mended."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from leanly.costs import PrecisionTimes
from leanly.distill import Distill
from leanly.families.allocation import Timed
from leanly.families.candidate import (
    INTEGER_RUNTIMES,
    Candidate,
    Seen,
    float_forms,
    integer_runtimes,
    labelled,
    mean_latency,
    static_of,
)
from leanly.families.making import Maker
from leanly.families.precisions import measure_precisions
from leanly.families.teaching import Teaching
from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.quantize import CorrectBias, Equalize, LearnSteps, Mixed, Reconstruct, Smooth, Static, WeightsOnly
from leanly.quantize.alone import sensitivities
from leanly.quantize.calibration import calibration_batches
from leanly.quantize.equalization import has_pairs
from leanly.recipe import Pass, Recipe
from leanly.target import Target
from leanly.training.optimizers import default_rate

if TYPE_CHECKING:
    from leanly.task import Task

OBSERVERS = ("mse", "percentile", "minmax")
SLOWER = (0.02, 0.05, 0.1, 0.2, 0.5)
"""Share of the time in integers that layers in float may add, one trial after the other."""
CLOSE = 1.4
"""A runtime this many times slower than the fastest is tried again only when all else was."""
ROWS = 16
"""Calibration rows on which it is seen what a layer's integers change in the outputs."""
ITERATIONS = 400
"""Steps of learning which way the weights of a part are rounded: for eight bits few are enough."""
FINE = 0.1
"""Learning rate of a network whose integers are trained, as a share of the rate by which one is taught."""
MENDED: dict[type, str] = {
    Smooth: "smoothed", Equalize: "equalized",
    CorrectBias: "biases corrected", Reconstruct: "roundings learned", LearnSteps: "trained",
}  # fmt: skip
"""How a candidate is called for the steps before and after its quantizers."""
PACKED = frozenset({torch.ops.aten.linear.default, torch.ops.aten.embedding.default})
MOSTLY = 0.5
"""Share of the parameters in layers whose weights can be packed from which on it is tried."""
DRAWS = (1, 2, 3)
"""Other calibration rows than the first: their spread says how much of the metric is luck."""


class Integers:
    """Ideas of integers for one captured model.

    Args:
        maker: makes graphs and artifacts of it.
        task: gives the data.
        target: allowed runtimes, and what the machine is good at.
        teaching: how a network is trained here, and how long that takes.
        timed: times the nodes of an artifact: says which layers are dear in float.
    """

    def __init__(
        self,
        maker: Maker,
        task: Task,
        target: Target,
        teaching: Teaching,
        timed: Timed | None,
    ) -> None:
        self._maker, self._task, self._target = maker, task, target
        self._teaching, self._timed = teaching, timed
        self._runtimes = integer_runtimes(target)
        self._floats = float_forms(self._runtimes, target)
        self._mixed: dict[str, list[tuple[Static, str]]] = {}
        self._times: dict[str, PrecisionTimes] = {}
        self._attention = any("scaled_dot_product" in str(node.target) for node in maker.graph.module.graph.nodes)
        # a few channels of a transformer are far larger than the others: unsmoothed, no range suits both
        self.smooth: tuple[Pass, ...] = (Smooth(),) if self._attention else ()
        self.static = Static(observer="minmax") if self._attention else Static()

    def first(self, trials: Sequence[Seen]) -> Iterator[Candidate]:
        """int8 in each runtime, the one whose float artifact is faster first."""
        floats = {
            trial.candidate.runtime: mean_latency(trial)
            for trial in trials
            if trial.medians and trial.candidate.unmodified and trial.candidate.precision == "float32"
        }
        order = sorted(self._runtimes, key=lambda runtime: floats.get(runtime, float("inf")))
        for runtime in order:
            # OpenVINO's products of activations are fastest between symmetric integers
            symmetric = runtime == "openvino" and self._attention
            yield self.named(replace(self.static, kernels=runtime, symmetric=symmetric), runtime)

    def others_quantizers(self, measured: Sequence[Seen], *, everywhere: bool = False) -> Iterator[Candidate]:
        """int8 with the quantizers placed as another runtime wants them: in the fastest runtime, or in all."""
        best = {}
        for trial in measured:
            runtime = trial.candidate.runtime
            best[runtime] = min(mean_latency(trial), best.get(runtime, math.inf))
        for runtime in sorted(best, key=lambda runtime: best[runtime]):
            if everywhere or best[runtime] <= CLOSE * min(best.values()):
                for kernels in INTEGER_RUNTIMES:
                    yield self.named(replace(self.static, kernels=kernels), runtime)

    def named(
        self,
        static: Static,
        runtime: str,
        rest: str = "",
        before: tuple[Pass, ...] | None = None,
        network: str = "",
        after: tuple[Pass, ...] = (),
        training: float = 0.0,
    ) -> Candidate:
        before = self.smooth if before is None else before
        rest = rest or ("bfloat16" if runtime == "openvino" and self._target.bf16 else "float32")
        parts = [static.observer]
        if static.kernels != runtime:
            parts.append(f"quantizers as {static.kernels}")
        if static.granularity != "channel":
            parts.append(f"a scale per {static.granularity}")
        if self._attention and not static.attention:
            parts.append("attention in float")
        parts += [MENDED[type(step)] for step in before if type(step) in MENDED]
        if static.symmetric:
            parts.append("symmetric")
        if static.draw:
            parts.append(f"calibration draw {static.draw}")
        if static.float_nodes:
            shown = ", ".join(static.float_nodes[:2])
            more = len(static.float_nodes) - 2
            parts.append(f"{shown}{f' and {more} more' if more > 0 else ''} in float")
        if rest == "bfloat16":
            parts.append("rest bfloat16")
        parts += [MENDED[type(step)] for step in after if type(step) in MENDED]
        label = labelled(f"int8 {runtime}", *parts)
        if network:
            label = f"{network}, {label}"
        recipe = Recipe((*before, static, *after))
        return Candidate(label, recipe, runtime, "int8", rest=rest, network=network, training=training)

    def more_accurate(self, candidate: Candidate, measured: Sequence[Seen]) -> Iterator[Candidate]:
        """Other observers, then float for what suffers most: the fastest int8 loses too much."""
        static = static_of(candidate)
        for observer in OBSERVERS:
            yield self.named(replace(static, observer=observer), candidate.runtime, candidate.rest)
        alike = [trial for trial in measured if trial.drop is not None and trial.candidate.runtime == candidate.runtime]
        best = min(alike, key=lambda trial: trial.drop or 0.0, default=None)
        if best is not None:
            static = replace(static_of(best.candidate), float_nodes=())
        if any(trial.outcome == "pass" and static_of(trial.candidate).float_nodes for trial in measured):
            return  # the fewest layers in float that pass are found
        if self._attention:
            yield self.named(replace(static, attention=False), candidate.runtime, candidate.rest)
        whole = next((trial.candidate for trial in alike if not static_of(trial.candidate).float_nodes), candidate)
        for mixed, rest in self._mixes(static, whole):
            yield self.named(mixed, candidate.runtime, rest)

    def mended(self, candidate: Candidate, trials: Sequence[Seen]) -> Iterator[Candidate]:
        """The fastest int8 equalized, with biases corrected, roundings learned, then trained: as fast, and nearer."""
        static, runtime, rest = static_of(candidate), candidate.runtime, candidate.rest
        before = self.smooth
        if self._equalizable:
            steps = (Equalize(), *before)
            plain, equalized = self.named(static, runtime, rest), self.named(static, runtime, rest, steps)
            yield equalized
            drops = {trial.candidate.key: trial.drop for trial in trials if trial.drop is not None}
            if drops.get(equalized.key, math.inf) < drops.get(plain.key, math.inf):
                before = steps
        yield self.named(static, runtime, rest, before, after=(CorrectBias(),))
        seconds = self._eager_seconds(trials)
        if seconds is not None:
            reconstruct = Reconstruct(iterations=ITERATIONS)
            # forward, backward, and the float values beside them
            taken = 4 * reconstruct.iterations * reconstruct.batch_size * seconds
            yield self.named(static, runtime, rest, before, after=(reconstruct,), training=taken)
        if self._task.split("train") is not None:
            settings = self._teaching.settings
            rate = FINE * default_rate(self._maker.graph, settings.optimizer)
            teach = Distill(
                teacher="original", epochs=1, alpha=self._teaching.alpha, settings=replace(settings, learning_rate=rate)
            )
            yield self.named(
                static, runtime, rest, before, after=(LearnSteps(), teach), training=2 * self._teaching.whole_seconds
            )

    @functools.cached_property
    def _equalizable(self) -> bool:
        return has_pairs(self._maker.graph)

    def _eager_seconds(self, trials: Sequence[Seen]) -> float | None:
        """Return what a row takes in eager PyTorch, in the largest batch that was timed."""
        eager = next((trial for trial in trials if trial.candidate.eager and trial.medians), None)
        return None if eager is None else eager.medians[max(eager.medians)] / max(eager.medians)

    def _mixes(self, static: Static, whole: Candidate) -> list[tuple[Static, str]]:
        """Return which layers stay float in which precision: what mends most within ever more time.

        Args:
            static: how the others are quantized.
            whole: without layers in float, whose artifact tells what they take in integers.
        """
        key = repr((static, whole.runtime))
        if key not in self._mixed:
            quantized = self._maker.outcome(Recipe((*self.smooth, static)))
            batches = list(calibration_batches(quantized, self._task, ROWS))
            layers = sensitivities(quantized, batches, (static.weights,), static.granularity)
            times = self._precision_times(whole, quantized, list(layers))
            found = []
            for slower in SLOWER:
                for rest in dict.fromkeys((whole.rest, "float32")):
                    mixed = Mixed(
                        average=None, choices=(static.weights,), static=static, times=times, slower=slower, rest=rest
                    )
                    floats = mixed.settled(layers).float_nodes
                    if 0 < len(floats) < len(layers):
                        found.append((replace(static, float_nodes=floats), rest))
            self._mixed[key] = found
        return self._mixed[key]

    def _precision_times(self, whole: Candidate, quantized: Graph, layers: Sequence[str]) -> PrecisionTimes:
        if whole.runtime not in self._times:
            forms = [("int8", quantized, whole)]
            for runtime, form in self._floats:
                if runtime == whole.runtime:
                    forms.append((form, self._maker.graph, Candidate("", Recipe(), runtime, form)))
            made = {
                form: (graph, artifact)
                for form, graph, candidate in forms
                if (artifact := self._maker.made(candidate)) is not None
            }
            size = min(self._target.batch_sizes)
            self._times[whole.runtime] = measure_precisions(layers, made, self._timed, size)
        return self._times[whole.runtime]

    def packed_weights(self) -> Iterator[Candidate]:
        """Few-bit weights that are decoded as they are multiplied: less to read, where most of a network is weights."""
        if self._linear_share < MOSTLY:
            return
        packings = {"8-bit weights": WeightsOnly(bits=8), "4-bit weights": WeightsOnly(bits=4)}
        if any(node.target is torch.ops.aten.embedding.default for node in self._maker.graph.module.graph.nodes):
            packings["4-bit weights and embeddings"] = WeightsOnly(bits=4, embedding_bits=4)
        for name, packing in packings.items():
            for runtime, precision in self._floats:
                way = runtime if precision == "float32" else f"{precision} {runtime}"
                yield Candidate(f"{name} {way}", Recipe((packing,)), runtime, precision)

    @functools.cached_property
    def _linear_share(self) -> float:
        """Share of the parameters that linear layers and embeddings hold."""
        nodes = self._maker.graph.module.graph.nodes
        read = {str(argument(node, "weight").target) for node in nodes if node.target in PACKED}
        sizes = {name: parameter.numel() for name, parameter in self._maker.graph.named_parameters()}
        return sum(size for name, size in sizes.items() if name in read) / max(sum(sizes.values()), 1)

    def variants(self, candidate: Candidate) -> Iterator[Candidate]:
        """Settings that may be faster, once accuracy is no concern."""
        static = static_of(candidate)
        if candidate.rest == "bfloat16":
            yield self.named(static, candidate.runtime, "float32")
        if self._attention:
            yield self.named(replace(static, attention=not static.attention), candidate.runtime, candidate.rest)
        yield self.named(replace(static, symmetric=not static.symmetric), candidate.runtime, candidate.rest)
        yield self.named(replace(static, granularity="tensor"), candidate.runtime, candidate.rest)
        for observer in OBSERVERS:
            yield self.named(replace(static, observer=observer), candidate.runtime, candidate.rest)
        split = self._task.seen_split()
        if split is not None and split.counted and len(split) > static.samples:
            passes = candidate.recipe.passes
            place = passes.index(static)
            before, after = passes[:place], passes[place + 1 :]
            for draw in DRAWS:
                yield self.named(
                    replace(static, draw=draw),
                    candidate.runtime,
                    candidate.rest,
                    before,
                    after=after,
                    training=candidate.training,
                )

"""Networks: which recipes to try in which runtime, the most promising first, and how to make one."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from leanly.artifact import Artifact, Plan
from leanly.distill import Distill
from leanly.families.candidate import Candidate, Seen, mean_latency
from leanly.families.cuts import cuts
from leanly.families.keeping import Kept
from leanly.families.ladder import Cut, Ladder
from leanly.families.sensitivity import output_errors
from leanly.families.teaching import epoch_seconds, settings_for
from leanly.files import replacing_folder
from leanly.graph import Graph
from leanly.lowering import lower
from leanly.quantize import Smooth, Static
from leanly.quantize.calibration import calibration_batches
from leanly.recipe import Pass, Recipe
from leanly.target import Target

if TYPE_CHECKING:
    from leanly.task import Task

INTEGER_RUNTIMES = ("onnxruntime", "openvino")
OBSERVERS = ("mse", "percentile", "minmax")
COMPILE_SECONDS = 25.0
"""What torch.compile takes at least: it builds kernels for each batch size, twice (once to prove, once to measure)."""
SENSITIVE_STEPS = (1, 2, 4, 8)
"""How many of the most sensitive layers stay float, one trial after the other."""
CLOSE = 1.4
"""A runtime this many times slower than the fastest is tried again only when all else was."""
AS_FAST = 1.25
"""An artifact inside the budget that takes at most so many times as long as the fastest is accurate enough to go on."""
ROWS = 16
"""Calibration rows on which it is seen what a layer's integers change in the outputs."""
SHORTEST = 1e-7
"""Seconds that a profiler can tell apart."""
DRAWS = (1, 2, 3)
"""Other calibration rows than the first: their spread says how much of the metric is luck."""


class Networks:
    """The family of neural networks.

    Args:
        graph: the captured model, in eval mode.
        task: gives the calibration data.
        target: allowed runtimes, and what the machine is good at.
        graphs: folder in which graphs that took long to train are kept; None keeps none.
        smaller: whether smaller networks are tried, where the task has training rows.
        past: keys of the candidates that an earlier process of the run measured.
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
        timed: Callable[[Graph, Artifact], Mapping[str, float]] | None = None,
    ) -> None:
        self._graph, self._task, self._target = graph, task, target
        self._past, self._timed = frozenset(past), timed
        self._may_be_smaller = smaller and task.split("train") is not None
        self._ladder: Ladder | None = None
        self._runtimes = target.allowed()
        self._kept = Kept(graphs)
        self._made: dict[str, Artifact] = {}
        self._files: dict[str, Artifact] = {}
        self._errors: dict[str, list[str]] = {}
        self._attention = any("scaled_dot_product" in str(node.target) for node in graph.module.graph.nodes)
        # a few channels of a transformer are far larger than the others: unsmoothed, no range suits both
        self._smooth: tuple[Pass, ...] = (Smooth(),) if self._attention else ()
        self._static = Static(observer="minmax") if self._attention else Static()

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
        before = self._made.get(candidate.files_key)
        if before is not None and candidate.plans:
            return _run_otherwise(before, candidate.plans, to)
        if candidate.network:
            # what a report, a bundle and a resumed run open again: the network in float, before it is quantized
            passes = tuple(step for step in candidate.recipe.passes if not isinstance(step, Smooth | Static))
            self._kept.put(passes, self._outcome(Recipe(passes)), on_disk=True)
        artifact = lower(
            self._outcome(candidate.recipe),
            runtime=candidate.runtime,
            to=to,
            precision=candidate.precision,
            rest=candidate.rest,
            plans=candidate.plans or self._usual_plans(candidate),
            eager=candidate.eager,
            exported=self._exported(candidate),
        )
        self._made[candidate.files_key] = artifact
        if candidate.runtime in INTEGER_RUNTIMES:
            self._files[repr(candidate.recipe.to_json())] = artifact
        return artifact

    def _usual_plans(self, candidate: Candidate) -> dict[int, Plan]:
        """OpenVINO compiles for each batch size of the target: a shape that is known is never slower there."""
        if candidate.runtime != "openvino":
            return {}
        return {size: Plan(threads=self._target.threads, static=True) for size in self._target.batch_sizes}

    def _exported(self, candidate: Candidate) -> Artifact | None:
        """An ONNX file of the same recipe, made for another runtime or precision."""
        if candidate.runtime not in INTEGER_RUNTIMES:
            return None
        made = self._files.get(repr(candidate.recipe.to_json()))
        return made if made is not None and made.model.exists() else None

    def _outcome(self, recipe: Recipe) -> Graph:
        """Apply a recipe; the last few outcomes are kept, since two runtimes share them."""
        if not recipe.passes:
            return self._graph
        graph = self._kept.get(recipe.passes)
        if graph is None:
            *before, last = recipe.passes
            graph = last(self._outcome(Recipe(tuple(before))), self._task, self._target)
            self._kept.put(recipe.passes, graph)
        return graph

    def _ideas(self, trials: Sequence[Seen], seconds: float) -> Iterator[Candidate]:
        """Yield every idea in order, tried ones too; what was seen decides which ideas come at all."""
        yield from self._floats()
        yield from self._first_integers(trials)
        measured = [
            trial
            for trial in trials
            if trial.medians and trial.candidate.precision == "int8" and not trial.candidate.network
        ]
        yield from self._others_quantizers(measured)
        fastest = min(measured, key=mean_latency, default=None)
        passing = [trial for trial in measured if trial.outcome == "pass"]
        if fastest is not None and not any(mean_latency(trial) <= AS_FAST * mean_latency(fastest) for trial in passing):
            yield from self._more_accurate(fastest.candidate, measured)
        yield from self._smaller(trials, seconds)
        yield from self._other_ways(trials)
        yield from self._others_quantizers(measured, everywhere=True)
        if passing:
            yield from self._variants(min(passing, key=mean_latency).candidate)
        if "torch" in self._runtimes:
            yield Candidate("float32 torch.compile", Recipe(), "torch", "float32", prior=COMPILE_SECONDS)

    def _floats(self) -> Iterator[Candidate]:
        for runtime in self._integer_runtimes():
            yield Candidate(f"float32 {runtime}", Recipe(), runtime, "float32")
        if "openvino" in self._runtimes and self._target.bf16:
            yield Candidate("bfloat16 openvino", Recipe(), "openvino", "bfloat16")

    def _integer_runtimes(self) -> tuple[str, ...]:
        return tuple(runtime for runtime in INTEGER_RUNTIMES if runtime in self._runtimes)

    def _first_integers(self, trials: Sequence[Seen]) -> Iterator[Candidate]:
        """int8 in each runtime, the one whose float artifact is faster first."""
        floats = {
            trial.candidate.runtime: mean_latency(trial)
            for trial in trials
            if trial.medians and trial.candidate.unmodified and trial.candidate.precision == "float32"
        }
        order = sorted(self._integer_runtimes(), key=lambda runtime: floats.get(runtime, float("inf")))
        for runtime in order:
            # OpenVINO's products of activations are fastest between symmetric integers
            symmetric = runtime == "openvino" and self._attention
            yield self._integer(replace(self._static, kernels=runtime, symmetric=symmetric), runtime)

    def _others_quantizers(self, measured: Sequence[Seen], *, everywhere: bool = False) -> Iterator[Candidate]:
        """int8 with the quantizers placed as another runtime wants them: in the fastest runtime, or in all."""
        best = {}
        for trial in measured:
            runtime = trial.candidate.runtime
            best[runtime] = min(mean_latency(trial), best.get(runtime, math.inf))
        for runtime in sorted(best, key=lambda runtime: best[runtime]):
            if everywhere or best[runtime] <= CLOSE * min(best.values()):
                for kernels in INTEGER_RUNTIMES:
                    yield self._integer(replace(self._static, kernels=kernels), runtime)

    def _integer(
        self, static: Static, runtime: str, rest: str = "", before: tuple[Pass, ...] | None = None, network: str = ""
    ) -> Candidate:
        before = self._smooth if before is None else before
        rest = rest or ("bfloat16" if runtime == "openvino" and self._target.bf16 else "float32")
        parts = [static.observer]
        if static.kernels != runtime:
            parts.append(f"quantizers as {static.kernels}")
        if static.granularity != "channel":
            parts.append(f"a scale per {static.granularity}")
        if self._attention and not static.attention:
            parts.append("attention in float")
        if any(isinstance(step, Smooth) for step in before):
            parts.append("smoothed")
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
        label = _label(f"int8 {runtime}", *parts)
        if network:
            label = f"{network}, {label}"
        return Candidate(label, Recipe((*before, static)), runtime, "int8", rest=rest, network=network)

    def _more_accurate(self, candidate: Candidate, measured: Sequence[Seen]) -> Iterator[Candidate]:
        """Other observers, then float for what suffers most: the fastest int8 loses too much."""
        static = _static(candidate)
        for observer in OBSERVERS:
            yield self._integer(replace(static, observer=observer), candidate.runtime, candidate.rest)
        alike = [trial for trial in measured if trial.drop is not None and trial.candidate.runtime == candidate.runtime]
        best = min(alike, key=lambda trial: trial.drop or 0.0, default=None)
        if best is not None:
            static = replace(_static(best.candidate), float_nodes=())
        if any(trial.outcome == "pass" and _static(trial.candidate).float_nodes for trial in measured):
            return  # the fewest layers in float that pass are found
        layers = self._sensitive(static, best.candidate if best is not None else candidate)
        if self._attention:
            yield self._integer(replace(static, attention=False), candidate.runtime, candidate.rest)
        for count in SENSITIVE_STEPS:
            if count < len(layers):
                kept = tuple(sorted(layers[:count], key=layers.index))
                yield self._integer(replace(static, float_nodes=kept), candidate.runtime, candidate.rest)

    def _sensitive(self, static: Static, candidate: Candidate) -> list[str]:
        """Names of the quantized layers: those first that lose most for the time that float would take longer."""
        key = repr(static)
        if key not in self._errors:
            quantized = self._outcome(Recipe((*self._smooth, static)))
            errors = output_errors(quantized, next(iter(calibration_batches(self._task, ROWS))))
            dear = self._float_seconds(quantized, candidate, list(errors))
            self._errors[key] = sorted(errors, key=lambda name: -errors[name] / dear[name])
        return self._errors[key]

    def _float_seconds(self, quantized: Graph, candidate: Candidate, names: Sequence[str]) -> dict[str, float]:
        """Return by how much longer each layer takes in float; all the same where nothing was timed."""
        whole = Candidate("", Recipe(), candidate.runtime, "float32")
        artifacts = [self._made.get(entry.files_key) for entry in (candidate, whole)]
        if self._timed is None or artifacts[0] is None or artifacts[1] is None:
            return dict.fromkeys(names, 1.0)
        integer, floats = self._timed(quantized, artifacts[0]), self._timed(self._graph, artifacts[1])
        known = {name: floats[name] - integer[name] for name in names if name in integer and name in floats}
        if not known:
            return dict.fromkeys(names, 1.0)
        usual = max(fmean(known.values()), SHORTEST)
        return {name: max(known.get(name, usual), usual / 10) for name in names}

    def _smaller(self, trials: Sequence[Seen], seconds: float) -> Iterator[Candidate]:
        """Smaller networks, taught by the original, as the fastest artifact inside the budget is quantized and run."""
        whole = self._fastest_whole(trials)
        if whole is None or not self._may_be_smaller:
            return
        if self._ladder is None:
            self._ladder = self._make_ladder(whole.candidate)
        yield from self._ladder.ideas(trials, whole, seconds)
        for winner in self._ladder.winners(trials)[:1]:
            passes = winner.candidate.recipe.passes
            if whole.candidate.precision == "int8":
                for runtime in self._integer_runtimes():
                    for kernels in INTEGER_RUNTIMES:
                        static = replace(_static(whole.candidate), kernels=kernels)
                        yield self._integer(static, runtime, before=passes[:-1], network=winner.candidate.network)
                yield from self._in_float(winner.candidate)

    def _in_float(self, winner: Candidate) -> Iterator[Candidate]:
        """The smaller network without integers: in a small one the nodes that round may take longer than they save."""
        taught = list(winner.recipe.passes)
        while taught and isinstance(taught[-1], Static | Smooth):
            taught.pop()
        for runtime in self._integer_runtimes():
            yield Candidate(
                f"{winner.network}, float32 {runtime}",
                Recipe(tuple(taught)),
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

        settings = settings_for(self._graph, self._task)

        # asked for again whenever something is proposed, and each takes a cut or some steps of training
        @functools.cache
        def capacity(cut: Cut) -> float:
            return self._outcome(Recipe(cut.passes)).cost().macs

        @functools.cache
        def seconds(cut: Cut) -> float:
            student = self._outcome(Recipe(cut.passes))
            hidden = cut.features > 0
            return epoch_seconds(student, self._graph, self._task, settings, self._target, hidden=hidden)

        return Ladder(
            cuts=cuts(self._graph),
            candidate=candidate,
            teach=lambda cut, epochs, place: Distill(
                teacher="original",
                epochs=epochs,
                features=cut.features,
                settings=replace(settings, seed=settings.seed + place),
            ),
            capacity=capacity,
            epoch_seconds=seconds,
            past=self._past,
        )

    def _other_ways(self, trials: Sequence[Seen]) -> Iterator[Candidate]:
        """Other threads and streams, for the fastest artifact and, to be fair, for the fastest float one."""
        good = [trial for trial in trials if trial.medians and trial.outcome != "fail" and not trial.candidate.plans]
        good = [trial for trial in good if trial.candidate.runtime in INTEGER_RUNTIMES]
        floats = [trial for trial in good if trial.candidate.unmodified]
        for name, plans in self._plans():
            # the float artifact first: what would help both must not count as a gain of int8
            for group in (floats, good):
                for base in _fastest_by_size(group):
                    if (name, base.runtime) != ("fixed shapes", "openvino"):
                        yield replace(base, label=_label(base.label, name), plans=plans)

    def _plans(self) -> Iterator[tuple[str, dict[int, Plan]]]:
        threads, sizes = self._target.threads, self._target.batch_sizes
        if threads > 1:
            pieces = sorted({-(-size // threads) for size in sizes if size >= threads}, reverse=True)
            for rows in dict.fromkeys([*pieces[:1], *(piece // 2 for piece in pieces[:1] if piece >= 4)]):
                yield f"{threads} streams of {rows} rows", {size: self._streams(size, rows) for size in sizes}
            yield "one thread", {size: Plan(threads=1, static=True) for size in sizes}
        yield "fixed shapes", {size: Plan(threads=threads, static=True) for size in sizes}

    def _streams(self, size: int, rows: int) -> Plan:
        """Rows of a large batch go through streams side by side; a small batch uses all threads at once."""
        if size <= rows:
            return Plan(threads=self._target.threads, static=True)
        return Plan(threads=1, streams=self._target.threads, rows=rows, static=size % rows == 0)

    def _variants(self, candidate: Candidate) -> Iterator[Candidate]:
        """Settings that may be faster, once accuracy is no concern."""
        static = _static(candidate)
        if candidate.rest == "bfloat16":
            yield self._integer(static, candidate.runtime, "float32")
        if self._attention:
            yield self._integer(replace(static, attention=not static.attention), candidate.runtime, candidate.rest)
        yield self._integer(replace(static, symmetric=not static.symmetric), candidate.runtime, candidate.rest)
        yield self._integer(replace(static, granularity="tensor"), candidate.runtime, candidate.rest)
        for observer in OBSERVERS:
            yield self._integer(replace(static, observer=observer), candidate.runtime, candidate.rest)
        split = self._task.seen_split()
        if split is not None and split.counted and len(split) > static.samples:
            for draw in DRAWS:
                yield self._integer(replace(static, draw=draw), candidate.runtime, candidate.rest)


def _label(name: str, *details: str) -> str:
    """Add details to a name, in brackets behind it."""
    start, bracket, rest = name.partition(" (")
    return f"{start} ({', '.join([*([rest[:-1]] if bracket else []), *details])})"


def _fastest_by_size(trials: Sequence[Seen]) -> list[Candidate]:
    """Return the fastest over all batch sizes, and the fastest at each."""
    if not trials:
        return []
    fastest = [min(trials, key=mean_latency)]
    fastest += [min(trials, key=lambda trial: trial.medians[size]) for size in trials[0].medians]
    return list({trial.candidate.key: trial.candidate for trial in fastest}.values())


def _static(candidate: Candidate) -> Static:
    static = candidate.recipe.passes[-1]
    assert isinstance(static, Static)
    return static


def _run_otherwise(artifact: Artifact, plans: dict[int, Plan], to: Path) -> Artifact:
    """Copy an artifact's files and say that they are run by other plans."""
    with replacing_folder(to) as folder:
        for name in artifact.files:
            source = artifact.folder / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copyfile(source, folder / name)
        replace(artifact.with_plans(plans), folder=folder).save()
    return replace(artifact.with_plans(plans), folder=to)

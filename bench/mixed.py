"""Mixed precision on EfficientNet-Lite0: nearly as fast as all int8, at half its disagreement with the float network.

Layers stay float where that mends the outputs most within a time (`quantize.Mixed`), the longest that keeps the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bench import peers
from bench.contest import Ground, Settings, lay_ground, race, test_outputs
from bench.entrants import BATCHES, Entrant
from bench.lowered import TARGET, Bench, lowered, open_bench
from bench.models.subjects import subject_named
from bench.pooled import mean_of, pooled_ratio
from bench.rows import Row, at_least, at_most
from leanly.families.candidate import float_forms
from leanly.families.precisions import measure_precisions
from leanly.measurement.attribution import node_times
from leanly.measurement.records import Interval
from leanly.quantize import Mixed, Static
from leanly.quantize.alone import sensitivities
from leanly.quantize.calibration import calibration_batches
from leanly.recipe import Recipe

SLOWER = (0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15)
"""Share of the time in integers that layers in float may add, by what each was measured to take."""
SPEED, SHARE = 0.95, 0.5
DRAWS = 2000
RUNTIMES = ("onnxruntime", "openvino")
"""That have kernels of integers."""
ROWS = 16
"""On which it is seen what a layer changes in the outputs."""
QUICK_SLOWER = (0.02, 0.05)


def rows(data_dir: Path, quick: bool) -> list[Row]:
    """Return the two rows: the speed that is kept, and the disagreement that is left."""
    subject = subject_named("lite0")
    peers.prepare(subject, data_dir)
    ground = lay_ground(subject, data_dir)
    bench = open_bench(ground, data_dir, subject.calibration(data_dir))
    timing = Settings(quick=quick)
    whole = {
        (runtime, rest): lowered(bench, Recipe((Static(kernels=runtime),)), runtime, "int8", rest)
        for runtime, rest in float_forms(RUNTIMES, TARGET)
    }
    latencies = race(ground, list(whole.values()), timing, 0)
    runtime, rest = min(whole, key=lambda form: sum(found.median for found in latencies[whole[form].label].values()))
    integer = whole[runtime, rest]
    mixes = {}
    for slower, static in _statics(bench, runtime, rest, integer, QUICK_SLOWER if quick else SLOWER).items():
        entrant = lowered(bench, Recipe((static,)), runtime, "int8", rest)
        mixes[slower] = replace(entrant, name=f"{len(static.float_nodes)} layers in float, {entrant.name}")
    latencies = race(ground, [integer, *mixes.values()], timing, 1)
    speeds = {
        slower: mean_of(
            [pooled_ratio([(latencies[integer.label][size], latencies[mix.label][size])], seed=0) for size in BATCHES]
        ).interval
        for slower, mix in mixes.items()
    }
    fast = [slower for slower in mixes if speeds[slower].value >= SPEED] or [min(mixes)]
    slower = max(fast)
    return [_speed_row(speeds[slower], integer, mixes[slower]), _disagreement_row(ground, integer, mixes[slower])]


def _statics(bench: Bench, runtime: str, rest: str, integer: Entrant, limits: Sequence[float]) -> dict[float, Static]:
    """Return, by the time that may be added, which layers stay float; of limits that give the same, the first."""
    even = Static(kernels=runtime)
    quantized = even(bench.graph, bench.task)
    batches = list(calibration_batches(bench.graph, bench.task, ROWS))
    layers = sensitivities(quantized, batches, (8,), even.granularity)
    floats = lowered(bench, Recipe(), runtime, rest)
    made = {"int8": (quantized, integer.artifact), rest: (bench.graph, floats.artifact)}
    times = measure_precisions(layers, made, partial(node_times, None, TARGET), min(BATCHES))
    mixed = Mixed(average=None, choices=(8,), static=even, times=times, rest=rest)
    found: dict[Static, float] = {}
    for slower in limits:
        kept = replace(mixed, slower=slower).settled(layers).float_nodes
        found.setdefault(replace(even, float_nodes=kept), slower)
    return {slower: static for static, slower in found.items()}


def _speed_row(speed: Interval, integer: Entrant, mix: Entrant) -> Row:
    return Row(
        name="mixed precision, EfficientNet-Lite0: speed as a share of int8's, geometric mean of batch 1 and 16",
        reached=speed,
        unit="x",
        aim=f">= {SPEED:g}",
        peer=f"leanly's own int8: {integer.name}",
        seeds=1,
        outcome=at_least(speed, SPEED),
        note=mix.name,
    )


def _disagreement_row(ground: Ground, integer: Entrant, mix: Entrant) -> Row:
    reference = ground.float_test.argmax(1)
    wrong = np.stack([test_outputs(ground, entrant).argmax(1) != reference for entrant in (mix, integer)])
    generator = np.random.default_rng(0)
    picks = generator.integers(0, wrong.shape[1], (DRAWS, wrong.shape[1]))
    drawn = wrong[:, picks].mean(2)
    shares = drawn[0] / np.maximum(drawn[1], 1 / wrong.shape[1])
    low, high = np.quantile(shares, (0.025, 0.975))
    reached = Interval(float(wrong[0].mean() / max(wrong[1].mean(), 1 / wrong.shape[1])), float(low), float(high))
    return Row(
        name="mixed precision, EfficientNet-Lite0: disagreement as a share of int8's",
        reached=reached,
        unit="x",
        aim=f"<= {SHARE:g}",
        peer=f"int8 disagrees in {wrong[1].sum()} of {wrong.shape[1]} rows",
        seeds=1,
        outcome=at_most(reached, SHARE),
        note=f"mixed in {wrong[0].sum()}",
    )

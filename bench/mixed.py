"""Mixed precision on EfficientNet-Lite0: nearly as fast as all int8, at half its disagreement with the float network.

The layers that change the outputs most for the time that float takes longer stay float, as many as keep the
speed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bench import peers
from bench.contest import Ground, Settings, lay_ground, race, test_outputs
from bench.entrants import BATCHES, THREADS, Entrant
from bench.lowered import TARGET, Bench, lowered, open_bench
from bench.models.subjects import subject_named
from bench.pooled import mean_of, pooled_ratio
from bench.rows import Row, at_least, at_most
from leanly.families.candidate import float_forms
from leanly.families.sensitivity import output_errors
from leanly.measurement import profile
from leanly.measurement.attribution import layer_seconds
from leanly.measurement.records import Interval
from leanly.quantize import Static
from leanly.quantize.calibration import calibration_batches
from leanly.recipe import Recipe

COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)
SPEED, SHARE = 0.95, 0.5
DRAWS = 2000
RUNTIMES = ("onnxruntime", "openvino")
"""That have kernels of integers."""
QUICK_COUNTS = (2, 6)


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
    order = _order(bench, runtime, rest, integer)
    mixes = {}
    for count in QUICK_COUNTS if quick else COUNTS:
        recipe = Recipe((Static(kernels=runtime, float_nodes=tuple(order[:count])),))
        entrant = lowered(bench, recipe, runtime, "int8", rest)
        mixes[count] = replace(entrant, name=f"{count} layers in float, {entrant.name}")
    latencies = race(ground, [integer, *mixes.values()], timing, 1)
    speeds = {
        count: mean_of(
            [pooled_ratio([(latencies[integer.label][size], latencies[mix.label][size])], seed=0) for size in BATCHES]
        ).interval
        for count, mix in mixes.items()
    }
    fast = [count for count in mixes if speeds[count].value >= SPEED] or [min(mixes)]
    count = max(fast)
    return [_speed_row(speeds[count], integer, mixes[count]), _disagreement_row(ground, integer, mixes[count])]


def _order(bench: Bench, runtime: str, rest: str, integer: Entrant) -> list[str]:
    """Names of layers, those first that change the outputs most for the time that float would take longer."""
    quantized = Static(kernels=runtime)(bench.graph, bench.task)
    errors = output_errors(quantized, next(iter(calibration_batches(bench.graph, bench.task, 32))))
    floats = lowered(bench, Recipe(), runtime, rest)
    seconds = [
        layer_seconds(graph, errors, entrant.artifact.kernels(), profile(entrant.artifact, threads=THREADS))
        for graph, entrant in ((quantized, integer), (bench.graph, floats))
    ]
    extra = {name: seconds[1].get(name, 0.0) - seconds[0].get(name, 0.0) for name in errors}
    least = max(float(np.mean(list(extra.values()))), 1e-7) / 10
    return sorted(errors, key=lambda name: -errors[name] / max(extra[name], least))


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

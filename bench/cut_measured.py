"""Cuts that are worth it in measured time: MiniLM on SST-2, EfficientNet-Lite0 on ImageNet's sample, an Inception.

Each criterion cuts by several shares of the MACs, least squares make up for what left, and validation chooses among the
criteria; the smallest cut that is as fast as asked for is taught, where the case says so, and scored on test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import peers
from bench.contest import Settings, lay_ground, race, test_outputs
from bench.drops import drop_row
from bench.entrants import BATCHES, Entrant
from bench.lowered import Bench, lowered, open_bench, score
from bench.models import minilm, small_inception
from bench.models.subjects import INCEPTION, MINILM_SST2, Rows, Subject, spread, subject_named
from bench.pooled import mean_of, pooled_ratio
from bench.rows import Row, at_least
from leanly.distill import Distill
from leanly.measurement.records import Interval
from leanly.prune import Channels, Layers, Refit, expected_gradient, fisher, gradient, magnitude, second_order, skipping
from leanly.recipe import Pass, Recipe

RUNTIMES = ("onnxruntime", "openvino")
SAMPLES = 512


@dataclass(frozen=True)
class Case:
    """A network, how fast its cut is to be, and what may be lost.

    Args:
        subject: the network.
        speed: over the whole network's fastest float artifact at each batch size, geometric mean.
        least: of the metric: agreement that must stay; 0 where a drop is allowed instead.
        shares: of the MACs, the smallest first.
        criteria: that are tried.
        loss: of what reads labels.
        rows: that criteria and the refit read, and teaching.
        layers: that leave before.
        teach: what teaches, if anything.
        margin: of the metric, where no agreement is asked for.
    """

    subject: Subject
    speed: float
    least: float
    shares: Sequence[float]
    criteria: Sequence[Callable[..., Any]]
    loss: str
    rows: Callable[[Path], Rows]
    layers: int = 0
    teach: Distill | None = None
    margin: float = 0.01


def _some_of_training(data_dir: Path) -> Rows:
    assert MINILM_SST2.train is not None
    rows = MINILM_SST2.train(data_dir)
    picked = spread(len(rows), SAMPLES)
    return Rows(tuple(array[picked] for array in rows.inputs), rows.targets[picked])


assert MINILM_SST2.train is not None and INCEPTION.train is not None
LITE = subject_named("lite0")
CASES = {
    "minilm-untrained": Case(
        MINILM_SST2,
        1.5,
        0.0,
        (0.3, 0.35, 0.4, 0.45, 0.5),
        (expected_gradient, fisher, gradient, second_order, magnitude),
        "cross_entropy",
        _some_of_training,
    ),
    "lite0-untrained": Case(
        LITE,
        1.2,
        0.9,
        (0.15, 0.2, 0.25, 0.3),
        (expected_gradient, second_order, magnitude),
        "mse",
        LITE.calibration,
    ),
    "minilm-taught": Case(
        MINILM_SST2,
        2.5,
        0.0,
        (0.2, 0.25, 0.3, 0.4),
        (expected_gradient, fisher, magnitude),
        "cross_entropy",
        MINILM_SST2.train,
        layers=3,
        teach=Distill(epochs=2, features=200.0, settings=minilm.SETTINGS),
        margin=0.026,
    ),
    "inception": Case(
        INCEPTION,
        2.0,
        0.0,
        (0.5, 0.6, 0.7),
        (expected_gradient, second_order, magnitude),
        "cross_entropy",
        INCEPTION.train,
        teach=Distill(epochs=15, settings=small_inception.SETTINGS),
        margin=0.005,
    ),
}


def rows(case: Case, data_dir: Path) -> list[Row]:
    """Return the speed of the cut that was chosen, and what it costs."""
    subject = case.subject
    peers.prepare(subject, data_dir)
    ground = lay_ground(subject, data_dir)
    bench = open_bench(ground, data_dir, case.rows(data_dir), case.loss)
    wholes = [lowered(bench, Recipe(), runtime, "float32") for runtime in RUNTIMES]
    for number, share in enumerate(case.shares):
        recipes = {criterion.__name__: _recipe(case, share, criterion) for criterion in case.criteria}
        scored = {
            name: score(bench, lowered(bench, recipe, RUNTIMES[0], "float32")) for name, recipe in recipes.items()
        }
        name = max(scored, key=lambda name: scored[name])
        told = ", ".join(f"{one} {value:.2%}" for one, value in scored.items())
        print(f"{subject.name}, {share:.0%} of the MACs off, validation: {told}", flush=True)
        cuts = [lowered(bench, recipes[name], runtime, "float32") for runtime in RUNTIMES]
        speed = _speed(bench, wholes, cuts, number)
        if speed.value >= case.speed:
            break
    small = cuts[0]
    training = "no training"
    if case.teach is not None:
        training = f"{case.teach.epochs} epochs"
        small = lowered(bench, Recipe((*recipes[name].passes, case.teach)), RUNTIMES[0], "float32")
    layers = f"{case.layers} layers and " if case.layers else ""
    title = f"{subject.title}, {training}, {layers}{share:.0%} of the MACs off by {name}"
    speed_row = Row(
        name=f"{title}: speed, float32",
        reached=speed,
        unit="x the whole network's, geometric mean of batch 1 and 16",
        aim=f">= {case.speed:g}",
        peer="leanly's whole network in its fastest float runtime",
        seeds=1,
        outcome=at_least(speed, case.speed),
    )
    outputs = test_outputs(ground, small)
    whole = ("float32", ground.float_test)
    margin = 1 - case.least if case.least else case.margin
    cost = drop_row(f"{title}: lost", ground.test_scale, whole, [(name, outputs)], margin=margin, unit="points")
    return [speed_row, cost]


def _recipe(case: Case, share: float, criterion: Callable[..., Any]) -> Recipe:
    layers: tuple[Pass, ...] = (Layers(count=case.layers, importance=skipping),) if case.layers else ()
    cut: Pass = Channels(macs=share, importance=criterion, normalized=False, multiple=8)
    return Recipe((*layers, cut, Refit(samples=SAMPLES)))


def _speed(bench: Bench, wholes: Sequence[Entrant], cuts: Sequence[Entrant], seed: int) -> Interval:
    """Return the fastest whole artifact's time over the fastest cut one's, at each batch size."""
    renamed = [
        replace(one, name=f"{kind}, {one.name}") for kind, many in (("whole", wholes), ("cut", cuts)) for one in many
    ]
    latencies = race(bench.ground, renamed, Settings(), seed)
    ratios = []
    for size in BATCHES:
        pair = [
            min((latencies[one.label][size] for one in many), key=lambda latency: latency.median)
            for many in (renamed[: len(wholes)], renamed[len(wholes) :])
        ]
        ratios.append(pooled_ratio([(pair[0], pair[1])], seed=0))
    return mean_of(ratios).interval

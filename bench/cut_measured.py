"""Cuts that are worth it in measured time: MiniLM on SST-2, EfficientNet-Lite0 on ImageNet's sample, an Inception.

Each criterion cuts by a table of what layers take, or by MACs where narrower ones save no time, as little as is as fast
as asked for; least squares make up for what left; validation chooses; the chosen one is taught, where the case says so,
and scored on test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

import leanly
from bench import peers
from bench.contest import Settings, lay_ground, race, test_outputs
from bench.drops import drop_row
from bench.entrants import BATCHES, Entrant
from bench.foreseen import costs_of
from bench.lowered import Bench, lowered, open_bench, score
from bench.models import minilm, small_inception
from bench.models.subjects import INCEPTION, MINILM_SST2, Rows, Subject, spread, subject_named
from bench.pooled import mean_of, pooled_ratio
from bench.rows import Row, at_least
from leanly.distill import Distill
from leanly.errors import LeanlyError
from leanly.graph import Graph
from leanly.measurement.records import Interval
from leanly.prune import Channels, Layers, Refit, expected_gradient, fisher, gradient, magnitude, second_order, skipping
from leanly.prune.importance import Importance
from leanly.recipe import Pass, Recipe

RUNTIMES = ("onnxruntime", "openvino")
SAMPLES = 512
MULTIPLE = 8
LARGEST, HALVINGS = 0.8, 6
"""Share that is never reached, and steps towards the least one that is enough."""
SECONDS, ROOM = 4.0, 0.02
"""Of timing on the way, and by which share a cut is made faster than asked for: what such a short look is off by."""


@dataclass(frozen=True)
class Case:
    """A network, how fast its cut is to be, and what may be lost.

    Args:
        subject: the network.
        speed: over the whole network's fastest float artifact at each batch size, geometric mean.
        least: of the metric: agreement that must stay; 0 where a drop is allowed instead.
        criteria: that are tried; of equals on validation the first is taken.
        loss: of what reads labels.
        rows: that criteria and the refit read, and teaching.
        layers: that leave before.
        teach: what teaches, if anything.
        margin: of the metric, where no agreement is asked for.
    """

    subject: Subject
    speed: float
    least: float
    criteria: Sequence[Importance]
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


def _with_mirrored(data_dir: Path) -> Rows:
    rows = LITE.calibration(data_dir)
    (images,) = rows.inputs
    mirrored = images[..., ::-1]
    return Rows((np.concatenate([images, mirrored]),), np.concatenate([rows.targets, rows.targets]))


assert MINILM_SST2.train is not None and INCEPTION.train is not None
LITE = subject_named("lite0")
CASES = {
    "minilm-untrained": Case(
        MINILM_SST2,
        1.5,
        0.0,
        (expected_gradient, fisher, gradient, second_order, magnitude),
        "cross_entropy",
        _some_of_training,
    ),
    "lite0-untrained": Case(
        LITE,
        1.2,
        0.9,
        (expected_gradient,),
        "mse",
        _with_mirrored,
        layers=2,
    ),
    "minilm-taught": Case(
        MINILM_SST2,
        2.5,
        0.0,
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
        (expected_gradient, second_order, magnitude),
        "cross_entropy",
        INCEPTION.train,
        teach=Distill(epochs=10, settings=small_inception.SETTINGS),
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
    table = costs_of(bench, RUNTIMES[-1], "float32", MULTIPLE)
    made: dict[str, Recipe] = {}
    usual = Channels(macs=0.5, normalized=False, multiple=MULTIPLE)
    if table is not None:
        usual = replace(usual, macs=None, latency=0.5, costs=table)
    layers: tuple[Pass, ...] = (Layers(count=case.layers, importance=_scored_once(skipping)),) if case.layers else ()
    before = f"{case.layers} layers and " if case.layers else ""
    unit = "MACs" if table is None else "time"
    for criterion in case.criteria:
        cut = replace(usual, importance=_scored_once(criterion))
        if (found := _least(case.speed, layers, bench, wholes, cut)) is not None:
            share, recipe = found
            made[f"{before}{share:.0%} of the {unit} by {criterion.__name__}"] = recipe
    if not made:
        raise LeanlyError(f"no cut is {case.speed:g} times as fast", where=subject.name, remedy="ask for less")
    scored = {name: score(bench, lowered(bench, recipe, RUNTIMES[0], "float32")) for name, recipe in made.items()}
    name = max(scored, key=lambda name: scored[name])
    told = ", ".join(f"{one} {value:.2%}" for one, value in scored.items())
    print(f"{subject.name}, validation: {told}", flush=True)
    cuts = [lowered(bench, made[name], runtime, "float32") for runtime in RUNTIMES]
    speed = _speed(bench, wholes, cuts, Settings())
    small, training = cuts[0], "no training"
    if case.teach is not None:
        training = f"{case.teach.epochs} epochs"
        small = lowered(bench, Recipe((*made[name].passes, case.teach)), RUNTIMES[0], "float32")
    title = f"{subject.title}, {training}, {name} off"
    speed_row = Row(
        name=f"{title}: speed, float32",
        reached=speed,
        unit="x the whole network's, geometric mean of batch 1 and 16",
        aim=f">= {case.speed:g}",
        peer="leanly's whole network in its fastest float runtime",
        seeds=1,
        outcome=at_least(speed, case.speed),
        note=told,
    )
    outputs = test_outputs(ground, small)
    whole = ("float32", ground.float_test)
    margin = 1 - case.least if case.least else case.margin
    cost = drop_row(f"{title}: lost", ground.test_scale, whole, [(name, outputs)], margin=margin, unit="points")
    return [speed_row, cost]


def _scored_once(criterion: Importance) -> Importance:
    """Return a criterion that remembers its first scores: the same network is cut at several shares."""
    found: list[dict[str, Tensor]] = []

    @functools.wraps(criterion)
    def scores(graph: Graph, task: leanly.Task | None) -> dict[str, Tensor]:
        if not found:
            found.append(criterion(graph, task))
        return found[0]

    return scores


def _least(
    wanted: float, layers: tuple[Pass, ...], bench: Bench, wholes: Sequence[Entrant], cut: Channels
) -> tuple[float, Recipe] | None:
    """Return the least share that makes a network as fast as asked for, and the recipe; None where no share does.

    Args:
        wanted: speed.
        layers: take some out before.
        bench: cuts.
        wholes: artifacts of the whole network.
        cut: by MACs or by time; its share is replaced.
    """
    way = "macs" if cut.macs is not None else "latency"
    low, high, best = 0.0, LARGEST, None
    for _ in range(HALVINGS):
        share = (low + high) / 2
        narrow = Recipe((*layers, replace(cut, **{way: share})))
        try:
            cuts = [lowered(bench, narrow, runtime, "float32") for runtime in RUNTIMES]
        except LeanlyError as error:
            print(f"{bench.ground.subject.name}: {error}", flush=True)
            high = share
            continue
        speed = _speed(bench, wholes, cuts, Settings(final=SECONDS)).value
        print(f"{bench.ground.subject.name}, {share:.1%} of the {way} off: {speed:.2f}x", flush=True)
        if speed >= wanted * (1 + ROOM):
            high, best = share, (share, Recipe((*narrow.passes, Refit(samples=SAMPLES))))
        else:
            low = share
    return best


def _speed(bench: Bench, wholes: Sequence[Entrant], cuts: Sequence[Entrant], settings: Settings) -> Interval:
    """Return the fastest whole artifact's time over the fastest cut one's, at each batch size."""
    renamed = [
        replace(one, name=f"{kind}, {one.name}") for kind, many in (("whole", wholes), ("cut", cuts)) for one in many
    ]
    latencies = race(bench.ground, renamed, settings, seed=0)
    ratios = []
    for size in BATCHES:
        pair = [
            min((latencies[one.label][size] for one in many), key=lambda latency: latency.median)
            for many in (renamed[: len(wholes)], renamed[len(wholes) :])
        ]
        ratios.append(pooled_ratio([(pair[0], pair[1])], seed=0))
    return mean_of(ratios).interval

"""How well a table of costs foresees the time of a narrower network: `Channels(latency=)` against the lowered model."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import leanly
from bench import peers
from bench.contest import Settings, lay_ground, race
from bench.entrants import BATCHES, Entrant
from bench.lowered import TARGET, Bench, lowered, open_bench
from bench.models.subjects import subject_named
from bench.rows import Row, cached, code_version, print_lines
from leanly.artifact import Artifact
from leanly.costs import CostTable
from leanly.families.allocation import error_of, foreseen, least_share, measure_costs
from leanly.graph import Graph
from leanly.measurement.attribution import node_times
from leanly.measurement.records import Interval
from leanly.prune import Channels
from leanly.quantize import Static
from leanly.recipe import Pass, Recipe

NETWORKS = ("resnet56", "lite0", "minilm")
KINDS = (("onnxruntime", "float32"), ("openvino", "float32"), ("openvino", "int8"))
SHARES = (0.3, 0.5, 0.7)
"""Of the time that narrower layers can save at all, by the table, as the search asks for it."""
MULTIPLE = 8
WITHIN = 0.1
"""Median error that is aimed at."""


def rows(data_dir: Path, quick: bool) -> list[Row]:
    """Return the error over all networks, runtimes and shares."""
    found = [one for name in NETWORKS[: 1 if quick else None] for one in _network(name, data_dir)]
    lines = [[label, f"{one:.3f}", f"{other:.3f}", f"{abs(one / other - 1):.1%}"] for label, one, other in found]
    headings = ("network, runtime, precision, share", "foreseen", "measured", "error")
    print_lines("time of a narrower network over the whole one's, mean of batch 1 and 16", headings, lines)
    errors = [abs(one / other - 1) for _, one, other in found]
    median = error_of([(one, other) for _, one, other in found])
    low, high = np.quantile(errors, (0.25, 0.75))
    return [
        Row(
            name=f"time foreseen for narrower networks against measured, median of {len(found)} cuts",
            reached=Interval(100 * median, 100 * float(low), 100 * float(high)),
            unit="% (the middle half of the cuts)",
            aim=f"<= {WITHIN:.0%}",
            peer="",
            seeds=1,
            outcome="ok" if median <= WITHIN else "short",
            note=f"largest {max(errors):.0%}",
            facts={"cuts": [[label, one, other] for label, one, other in found]},
        )
    ]


def _network(name: str, data_dir: Path) -> Iterator[tuple[str, float, float]]:
    """Yield for each runtime and share what was foreseen and what was measured, as shares of the whole network."""
    subject = subject_named(name)
    peers.prepare(subject, data_dir)
    bench = open_bench(lay_ground(subject, data_dir), data_dir, subject.calibration(data_dir))
    for runtime, precision in KINDS:
        yield from _kind(bench, runtime, precision)


def _kind(bench: Bench, runtime: str, precision: str) -> Iterator[tuple[str, float, float]]:
    integer = _integer(runtime, precision)
    whole = lowered(bench, Recipe(integer), runtime, precision)
    table = costs_of(bench, runtime, precision, MULTIPLE)
    if table is None:
        print(f"{runtime}, {precision}: narrower layers save no time there, MACs decide", flush=True)
        return
    for number, part in enumerate(SHARES):
        share = part * (1 - least_share(table))
        cut = Channels(latency=share, costs=table, multiple=MULTIPLE)
        small = lowered(bench, Recipe((cut, *integer)), runtime, precision)
        expected = foreseen(table, bench.outcome(Recipe((cut,)))) / foreseen(table, bench.graph)
        measured = _measured(bench, whole, small, number)
        print(f"{runtime}, {precision}, {share:.0%}: foreseen {expected:.3f}, measured {measured:.3f}", flush=True)
        yield f"{bench.ground.subject.name}, {runtime}, {precision}, {share:.0%}", expected, measured


def costs_of(bench: Bench, runtime: str, precision: str, multiple: int) -> CostTable | None:
    """Return what a network's layers take at several widths, measured once; None where narrower ones save no time."""
    key = {"runtime": runtime, "precision": precision, "multiple": multiple, "code": code_version()}
    measure = functools.partial(measured_table, bench.graph, bench.task, runtime, precision, multiple)
    return kept_table({"subject": bench.ground.subject.name, **key}, measure)


def measured_table(graph: Graph, task: leanly.Task, runtime: str, precision: str, multiple: int) -> CostTable | None:
    """Measure what a graph's layers take at several widths; None where narrower ones save no time."""
    integer = Recipe(_integer(runtime, precision))

    def make(narrow: Graph) -> Artifact:
        quantized = integer(narrow, task, TARGET)
        return leanly.lower(
            quantized, runtime=runtime, to=Path(tempfile.mkdtemp(dir=folder)) / "made", precision=precision
        )

    with tempfile.TemporaryDirectory() as folder:
        return measure_costs(graph, TARGET, make, functools.partial(node_times, task, TARGET), multiple=multiple)


def kept_table(key: dict[str, Any], measure: Callable[[], CostTable | None]) -> CostTable | None:
    """Return the table that is kept for a key, or measure it: a run that goes on cuts as it did before."""

    def run() -> Mapping[str, Any] | None:
        table = measure()
        return None if table is None else table.layers

    layers = cached("costs", key, run)
    return None if layers is None else CostTable(layers)


def _integer(runtime: str, precision: str) -> tuple[Pass, ...]:
    return (Static(kernels=runtime),) if precision == "int8" else ()


def _measured(bench: Bench, whole: Entrant, small: Entrant, seed: int) -> float:
    latencies = race(bench.ground, [whole, small], Settings(), seed)
    ratios = [latencies[small.label][size].median / latencies[whole.label][size].median for size in BATCHES]
    return math.prod(ratios) ** (1 / len(ratios))

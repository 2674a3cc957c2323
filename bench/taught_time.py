"""ResNet-56 twice as fast, measured: shortened, narrowed by a table of what its layers take, and taught.

How many blocks leave before the channels do is chosen by a short try on validation. Torch-Pruning's networks of
`bench.taught_cut`, taught alike, say how fast that tool is at the accuracy that is reached: their accuracies are read
from its rows, and their times are taken anew beside leanly's, of networks that are as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

import leanly
from bench.drops import points_lost
from bench.entrants import BATCHES
from bench.foreseen import kept_table, measured_table
from bench.models import cifar_resnet
from bench.pooled import mean_of, pooled_ratio
from bench.rows import Row, at_least, at_most, cached, code_version
from bench.taught_cut import BLOCKS, FEWER, NO_DROP, RUNTIMES, Cut, Matter, latencies, lay_out, part_name, taught
from leanly.costs import CostTable
from leanly.errors import LeanlyError
from leanly.families.allocation import foreseen
from leanly.files import read_json
from leanly.graph import Graph
from leanly.measurement.records import Interval, Latency
from leanly.prune import Channels, Layers, Refit, skipping
from leanly.training import BatchNorm

FASTER, FASTER_THAN_PEER = 2.0, 1.5
ROOM = 0.04
"""By which share a cut is made faster than asked for, at least: what one measurement differs from the next by."""
LEAVING = (0, 3, 6, 9, 12)
"""Residual blocks, of 27, that leave before the channels do."""
MULTIPLE = 4
CORRECTIONS = 3


def rows(data_dir: Path, epochs: int, results: Path) -> list[Row]:
    """Return the speed, what it costs, and how it compares with Torch-Pruning at the same accuracy.

    Args:
        data_dir: holds the data.
        epochs: of teaching.
        results: the file with the rows of `bench.taught_cut`.
    """
    networks = _peers(results, epochs)
    matter = lay_out(data_dir)
    whole = leanly.capture(matter.model, example=matter.task.example).eval()
    about = {"faster": FASTER, "multiple": MULTIPLE, "code": code_version(__file__)}
    made: dict[str, Cut] = {}
    for count in LEAVING:
        shorter = _shorter(whole, matter, count)
        table = kept_table(
            {**about, "blocks": count}, partial(measured_table, shorter, matter.task, RUNTIMES[-1], "float32", MULTIPLE)
        )
        if table is not None:
            find = partial(_share, whole, shorter, matter, table)
            share = cached("taught-time-share", {**about, "blocks": count}, find)
            if share is not None:
                made[f"{count} blocks and {share:.1%} of the rest's time off"] = partial(
                    _fitted, shorter, matter, table, share
                )
    name, ours = taught(f"leanly, {FASTER:g}x in time", made, matter.task, epochs)
    peers = {
        name: leanly.capture(cifar_resnet.narrowed(BLOCKS, widths), example=matter.task.example)
        for name, (_, widths) in networks.items()
    }
    found = latencies({"whole": whole, "leanly": ours, **peers})
    whole_right, mine = matter.right(matter.model), matter.right(ours)
    accuracies = {"whole": float(whole_right.mean()), **{name: one for name, (one, _) in networks.items()}}
    title = f"ResNet-56 cut by measured time, {epochs} epochs"
    note = f"{name}; {1 - ours.cost().macs / whole.cost().macs:.1%} of the MACs off; accuracy {mine.mean():.2%}"
    made_rows = []
    for size in BATCHES:
        speed = pooled_ratio([(found["whole"][size], found["leanly"][size])], seed=0).interval
        made_rows.append(
            Row(
                name=f"{title}: speed, float32, batch {size}",
                reached=speed,
                unit="x the whole network's, each in its faster runtime",
                aim=f">= {FASTER:g}",
                peer="",
                seeds=1,
                outcome=at_least(speed, FASTER),
                note=note,
            )
        )
    lost = points_lost(whole_right, mine, NO_DROP)
    whole_told = f"the whole network: {whole_right.mean():.2%}"
    made_rows.append(
        Row(f"{title}: lost", lost, "points", f"<= {NO_DROP:g}", whole_told, 1, at_most(lost, NO_DROP), note)
    )
    return [*made_rows, _against(title, found, accuracies, mine)]


def _peers(results: Path, epochs: int) -> dict[str, tuple[float, list[int]]]:
    """Return accuracy and widths of each of Torch-Pruning's networks that were taught for so many epochs."""
    parts = read_json(results)["parts"] if results.exists() else {}
    found = {}
    for fewer in FEWER:
        part = parts.get(part_name(fewer))
        facts = part["rows"][0]["facts"] if part else {}
        if facts.get("epochs") != epochs:
            raise LeanlyError(
                f"no network of Torch-Pruning was taught for {epochs} epochs",
                where=f"{results.name}, {part_name(fewer)}",
                remedy=f"run --rows {part_name(fewer)} first, with the same --scale",
            )
        found[f"{fewer:g}x fewer MACs, {facts['peer']}"] = (facts["accuracy"], facts["widths"])
    return found


def _shorter(whole: Graph, matter: Matter, count: int) -> Graph:
    if not count:
        return whole
    return BatchNorm()(Layers(count, skipping)(whole, matter.task), matter.task)


def _narrower(shorter: Graph, matter: Matter, table: CostTable, share: float) -> Graph:
    return Channels(latency=share, costs=table, multiple=MULTIPLE)(shorter, matter.task) if share else shorter


def _fitted(shorter: Graph, matter: Matter, table: CostTable, share: float) -> Graph:
    return Refit()(_narrower(shorter, matter, table, share), matter.task)


def _share(whole: Graph, shorter: Graph, matter: Matter, table: CostTable) -> float | None:
    """Return the share of the time that channels have to save so that a network is as fast as asked for, or None."""
    wanted = FASTER * (1 + ROOM)
    share, speed = 0.0, _speed(whole, shorter)
    if speed > wanted * (1 + ROOM):
        return None  # more left with the blocks than has to
    for _ in range(CORRECTIONS):
        if speed >= wanted:
            return share
        # of the time that was left, what is still too much
        share = 1 - (1 - share) * speed / (wanted * (1 + ROOM / 2))
        try:
            small = _narrower(shorter, matter, table, share)
        except leanly.LeanlyError as error:
            print(error, flush=True)
            return None
        speed = _speed(whole, small)
        told = foreseen(table, shorter) / foreseen(table, small)
        print(f"{share:.1%} of the time off: {speed:.2f}x, by the table {told:.2f}x more than before", flush=True)
    return share if speed >= FASTER else None


def _speed(whole: Graph, small: Graph) -> float:
    """Return how many times as fast a network is, at the batch size where that is less."""
    found = latencies({"whole": whole, "small": small})
    return min(found["whole"][size].median / found["small"][size].median for size in BATCHES)


def _against(
    title: str, found: Mapping[str, Mapping[int, Latency]], accuracies: Mapping[str, float], mine: np.ndarray
) -> Row:
    """Compare with the peer's speed at the same accuracy: on straight lines between its networks and the whole one."""
    peers = sorted(accuracies, key=lambda name: -accuracies[name])
    speeds = {
        name: mean_of([pooled_ratio([(found["whole"][size], found[name][size])], seed=0) for size in BATCHES])
        for name in (*peers, "leanly")
    }
    at = _interpolated(float(mine.mean()), [(accuracies[name], speeds[name].estimate) for name in peers])
    draws = speeds["leanly"].draws - at
    low, high = np.exp(np.quantile(draws, (0.025, 0.975)))
    over = Interval(float(np.exp(speeds["leanly"].estimate - at)), float(low), float(high))
    points = "; ".join(f"{name}: {accuracies[name]:.2%}, {speeds[name].interval.value:.2f}x" for name in peers)
    return Row(
        name=f"{title}: speed over Torch-Pruning's at the same accuracy",
        reached=over,
        unit="x, geometric mean of batch 1 and 16",
        aim=f">= {FASTER_THAN_PEER:g}",
        peer=f"{np.exp(at):.2f}x between {points}",
        seeds=1,
        outcome=at_least(over, FASTER_THAN_PEER),
        note="the interval is that of leanly's time",
    )


def _interpolated(accuracy: float, points: Sequence[tuple[float, float]]) -> float:
    """Return the speed at an accuracy; beyond the ends that of the end."""
    ordered = sorted(points)
    return float(np.interp(accuracy, [point[0] for point in ordered], [point[1] for point in ordered]))

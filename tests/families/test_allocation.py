"""What layers take at other widths: measured once, kept for the machine, and read off for any cut."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leanly
from leanly.artifact import Artifact
from leanly.costs import CostTable, NodeTimes
from leanly.errors import LoweringError, SettingError
from leanly.families import allocation, networks
from leanly.families.allocation import COPIES, error_of, foreseen, kept_costs, layer_widths, least_share, measure_costs
from leanly.families.networks import Networks
from leanly.graph import Graph
from leanly.prune import Channels, magnitude
from tests.families.test_networks import judged

OVERHEAD, EACH, BETWEEN = 2e-6, 1e-9, 5e-6
"""Seconds of a layer whatever its width, for each of its MACs, and of all that is no layer."""


@pytest.fixture(scope="module")
def task() -> leanly.Task:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 5)]
    x, y = torch.randn(40, 3, 8, 8), torch.arange(40) % 5
    return leanly.Task(nn.Sequential(*layers).eval(), example=x[:2], train=(x, y), validation=(x, y))


@pytest.fixture(scope="module")
def graph(task: leanly.Task) -> Graph:
    return leanly.capture(task.model, example=task.example).eval()


def itself(graph: Graph) -> Artifact:
    """What stands for an artifact, so that what it takes is known."""
    return graph  # type: ignore[return-value]


def layer_times(graph: Graph, size: int) -> dict[str, float]:
    return {node.name: OVERHEAD + EACH * node.macs for node in graph.cost(size).nodes if node.macs}


def whole_time(graph: Graph, size: int) -> float:
    return sum(layer_times(graph, size).values()) + BETWEEN


def times(graph: Graph, artifact: Artifact, size: int, beside: Any = None) -> NodeTimes:
    """On a machine that is faster at one time than at another."""
    pace = random.Random(str(artifact)).uniform(0.5, 2.0)
    layers = {name: pace * seconds for name, seconds in layer_times(graph, size).items()}
    other = pace * whole_time(beside, size) if beside is not None else None
    return NodeTimes({**layers, "relu": 1e-6}, pace * whole_time(graph, size), other)


def measured(graph: Graph, task: leanly.Task, sizes: tuple[int, ...]) -> CostTable:
    target = leanly.Target("cpu", batch_sizes=sizes)
    found = measure_costs(graph, target, itself, times, multiple=1)
    assert found is not None
    return found


@pytest.mark.parametrize("sizes", [(1,), (1, 16)])
def test_a_table_adds_up_to_the_whole_and_foresees_a_cut(
    graph: Graph, task: leanly.Task, sizes: tuple[int, ...]
) -> None:
    costs = measured(graph, task, sizes)
    assert set(costs.layers) == {"conv2d", "conv2d_1", "linear"}
    assert all(4 <= len(points) <= COPIES for points in costs.layers.values())
    wholes = [times(graph, itself(graph), size).whole for size in sizes]
    usual = torch.tensor(wholes).log().mean().exp().item()
    assert foreseen(costs, graph) == pytest.approx(usual, rel=1e-3)
    small = Channels(macs=0.6)(graph)
    shares = [whole_time(small, size) / whole_time(graph, size) for size in sizes]
    assert foreseen(costs, small) / foreseen(costs, graph) == pytest.approx(sum(shares) / len(sizes), rel=0.1)
    assert 0 < least_share(costs) < foreseen(costs, small) / foreseen(costs, graph)


def test_a_width_that_would_empty_a_small_layer_is_left_out() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)]
    x = torch.randn(4, 3, 8, 8)
    task = leanly.Task(nn.Sequential(*layers).eval(), example=x[:2], train=(x, torch.arange(4)))
    graph = leanly.capture(task.model, example=x[:2])
    with pytest.raises(SettingError, match="leave nothing"):
        Channels(fraction=0.75, multiple=8)(graph)
    target = leanly.Target("cpu")

    costs = measure_costs(graph, target, itself, times, multiple=8)
    assert costs is not None and 1 < len(costs.layers["conv2d"]) < COPIES

    def refuse(graph: Graph) -> Artifact:
        raise LoweringError("it can't be lowered", where="here", remedy="none")

    assert measure_costs(graph, target, refuse, times, multiple=8) is None
    wide = leanly.capture(nn.Linear(8, 8).eval(), example=torch.randn(2, 8))
    assert measure_costs(wide, target, itself, times, multiple=8) is None


class Twins(nn.Module):
    """Two layers of one shape, whose widths are tied to different others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Linear(16, 32), nn.Linear(32, 4)
        self.inner, self.outer = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        return self.last(torch.relu(x + self.outer(torch.relu(self.inner(x)))))


def blocks_of_sixteen(graph: Graph, artifact: Artifact, size: int, beside: Any = None) -> NodeTimes:
    """As kernels work that take sixteen outputs at once."""

    def seconds(outputs: float, terms: float) -> float:
        return -(-outputs // 16) * 16 * terms * EACH

    def layers(graph: Graph) -> dict[str, float]:
        return {name: seconds(*widths) for name, widths in layer_widths(graph).items()}

    other = sum(layers(beside).values()) if beside is not None else None
    return NodeTimes(layers(graph), sum(layers(graph).values()), other)


def test_a_kernel_that_works_in_blocks_is_foreseen() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16)
    task = leanly.Task(Twins().eval(), example=x[:2], train=(x, torch.arange(8) % 4))
    graph = leanly.capture(task.model, example=x[:2]).eval()
    costs = measure_costs(graph, leanly.Target("cpu"), itself, blocks_of_sixteen, multiple=8)
    assert costs is not None
    assert len({point[:2] for point in costs.layers["linear_1"]}) > COPIES - 1, "what its twin took counts as well"
    for share in (0.2, 0.35, 0.5):
        small = Channels(latency=share, costs=costs, multiple=8)(graph)
        times = blocks_of_sixteen(small, itself(small), 1, graph)
        taken = times.whole / (times.beside or 0)
        assert foreseen(costs, small) / foreseen(costs, graph) == pytest.approx(taken, rel=0.1)


def test_where_narrower_layers_save_no_time_there_is_no_table(graph: Graph, task: leanly.Task) -> None:
    def alike(graph: Graph, artifact: Artifact, size: int, beside: Artifact | None) -> NodeTimes:
        layers = dict.fromkeys(layer_widths(graph), 1e-3)
        whole = sum(layers.values())
        return NodeTimes(layers, whole, whole if beside is not None else None)

    found = measure_costs(graph, leanly.Target("cpu"), itself, alike, multiple=1)
    assert found is None


def test_a_runtime_that_tells_of_no_layer_gives_no_table(graph: Graph, task: leanly.Task) -> None:
    silent = measure_costs(graph, leanly.Target("cpu"), itself, lambda *_: NodeTimes({}, 1.0), multiple=1)
    assert silent is None


def test_a_table_is_kept_for_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def measure() -> CostTable:
        asked.append(1)
        return CostTable({"conv": ((1.0, 1.0, 1e-3), (2.0, 1.0, 2e-3))}, machine="this one")

    first = kept_costs({"shapes": [1]}, measure)
    assert kept_costs({"shapes": [1]}, measure) == first and len(asked) == 1
    assert kept_costs({"shapes": [2]}, measure) == first and len(asked) == 2
    for path in (tmp_path / "leanly" / "costs").iterdir():
        path.write_text("{torn")
    assert kept_costs({"shapes": [1]}, measure) == first and len(asked) == 3


def test_where_nothing_can_be_kept_it_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    table = CostTable({"conv": ((1.0, 1.0, 1e-3),)})
    assert kept_costs({"shapes": [1]}, lambda: table) is table
    assert kept_costs({"shapes": [1]}, lambda: None) is None


def test_errors_are_shares_of_what_was_measured() -> None:
    assert error_of([(1.0, 1.0), (1.1, 1.0), (2.0, 4.0)]) == pytest.approx(0.1)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the table of one search is kept for the next."""
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize(("patience", "importance"), [(10.0, None), (-1.0, magnitude)])
def test_the_search_cuts_by_time_and_says_how_well_it_foresaw(
    graph: Graph,
    task: leanly.Task,
    patience: float,
    importance: object,
    tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(networks, "PATIENCE", patience)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tables))
    monkeypatch.setattr(allocation, "NARROWER", (0.5, 0.75))
    target = leanly.Target("cpu", threads=1, runtimes=("onnxruntime",), batch_sizes=(1,))

    def timed(small: Graph, artifact: Artifact, size: int, beside: Artifact | None) -> NodeTimes:
        return times(small, artifact, size, graph if beside is not None else None)

    family = Networks(graph, task, target, timed=timed)
    trials = [judged(family.reference())]
    while ", taught" not in trials[-1].candidate.label:
        candidate = family.propose(trials, 1000.0)
        assert candidate is not None
        if "time off channels" in candidate.label and "foresaw" not in "".join(family.remarks(trials)):
            family.build(candidate, tmp_path / str(len(trials)))
        trial = judged(candidate)
        trials.append(replace(trial, medians={1: trial.medians[1] / 2}) if candidate.network else trial)
    cut = next(step for step in trials[-1].candidate.recipe.passes if isinstance(step, Channels))
    assert (
        cut.latency is not None and cut.costs is not None and set(cut.costs.layers) == {"conv2d", "conv2d_1", "linear"}
    )
    assert cut.importance is importance
    (told,) = family.remarks(trials)
    assert told.startswith("what layers take at other widths foresaw the time of smaller networks within ")
    assert Networks(graph, task, target).remarks(trials) == []

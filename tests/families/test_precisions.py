"""What layers take in each precision, by made-up times, and which of them the search leaves in float."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from leanly.artifact import Artifact
from leanly.costs import NodeTimes
from leanly.families.candidate import Candidate
from leanly.families.networks import Networks
from leanly.families.precisions import BORDER, measure_precisions
from leanly.graph import Graph, capture
from leanly.quantize import Static
from leanly.target import Target
from leanly.task import Task
from tests.families.seen import Trial

SECONDS = {
    "int8": {"conv2d": 1.0, "conv2d_1": 1.0, "conv2d_2": 1.0, "linear": 1.0},
    "float32": {"conv2d": 1.9, "conv2d_1": 3.0, "conv2d_2": 3.0, "linear": 9.0},
    "bfloat16": {"conv2d": 9.0, "conv2d_1": 1.3, "conv2d_2": 9.0, "linear": 9.0},
}


def timed(graph: Graph, artifact: Artifact, size: int, beside: Artifact | None) -> NodeTimes:
    layers = SECONDS[artifact.precision]
    return NodeTimes(layers, sum(layers.values()))


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()]
    return capture(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 3)).eval(), example=torch.randn(2, 1, 8, 8))


def fake(precision: str) -> Artifact:
    return Artifact(Path(), "openvino", precision, (), (), (), 0, 0)


def test_what_lies_between_layers_is_shared_out_and_what_is_not_named_is_as_the_others(graph: Graph) -> None:
    def partly(graph: Graph, artifact: Artifact, size: int, beside: Artifact | None) -> NodeTimes:
        if artifact.precision == "int8":
            return NodeTimes({"one": 1.0, "two": 3.0}, 9.0)
        assert beside is not None and beside.precision == "int8"
        # the machine is half as fast by now: int8 takes twice what it took
        return NodeTimes({"one": 8.0}, 36.0, 18.0)

    made = {precision: (graph, fake(precision)) for precision in ("int8", "float32")}
    table = measure_precisions(["one", "two", "three"], made, partly, 1)
    assert table.layers == {
        "one": {"int8": 1.5, "float32": 6.0},
        "two": {"int8": 4.5, "float32": 6.0},
        "three": {"int8": 3.0, "float32": 6.0},
    }


def test_float_that_seems_to_take_no_longer_takes_what_its_borders_take(graph: Graph) -> None:
    def alike(graph: Graph, artifact: Artifact, size: int, beside: Artifact | None) -> NodeTimes:
        return NodeTimes({"one": 1.0, "two": 1.0}, 2.0)

    made = {precision: (graph, fake(precision)) for precision in ("int8", "float32")}
    table = measure_precisions(["one", "two"], made, alike, 1)
    assert table.seconds("one", "float32") == 1.0 + BORDER


@pytest.mark.parametrize("silent", [None, lambda *_: NodeTimes({}, 1.0)])
def test_where_nothing_is_timed_all_layers_are_alike(graph: Graph, silent) -> None:
    table = measure_precisions(["one", "two"], {"int8": (graph, fake("int8"))}, silent, 1)
    assert table.layers["one"] == table.layers["two"] == {"int8": 1.0, "float32": 2.0, "bfloat16": 2.0}


def test_the_search_leaves_in_float_what_mends_most_within_ever_more_time(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "bf16", property(lambda target: True))
    x = torch.randn(40, 1, 8, 8)
    task = Task(graph, example=(x[:2],), validation=(x, torch.arange(40) % 3))
    family = Networks(graph, task, Target(threads=1, runtimes=("openvino",)), timed=timed)
    trials = [Trial(family.reference(), {1: 9.0}, "pass", 0.0)]
    while (candidate := family.propose(trials, 100.0)) is not None:
        assert len(trials) < 60
        if not candidate.network and candidate.label.startswith(("float32", "bfloat16", "int8 openvino (mse, rest")):
            family.build(candidate, tmp_path / str(len(trials)))
        trials.append(Trial(candidate, {1: 1.0}, "pass" if candidate.unmodified else "fail", 0.01))
    mixes = [mixed(trial.candidate) for trial in trials if mixed(trial.candidate)]
    # of four seconds: 0.3 more for conv2d_1 in bfloat16, 0.9 more for conv2d in float32
    assert mixes[:2] == [(("conv2d_1",), "bfloat16"), (("conv2d",), "float32")], mixes


def mixed(candidate: Candidate) -> tuple[tuple[str, ...], str] | None:
    """The layers in float, and what they are computed in."""
    static = next((step for step in candidate.recipe.passes if isinstance(step, Static)), None)
    return (static.float_nodes, candidate.rest) if static is not None and static.float_nodes else None

"""A graph given where a module is: to a task, to capture, to a loop of one's own."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leanly
from leanly.errors import CaptureError
from leanly.graph import Graph
from leanly.prune import Channels, Refit


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, 4)

    def forward(self, x: Tensor, states: Any, flag: None = None) -> dict[str, Tensor]:
        return {"logits": self.last(torch.relu(self.norm(self.first(x + states[1]["a"])))) + states[0]}


def rows(count: int) -> tuple[Any, ...]:
    return torch.randn(count, 8), (torch.randn(count, 4), {"a": torch.randn(count, 8)}), None


@pytest.fixture
def cut(tmp_path: Path) -> Graph:
    torch.manual_seed(0)
    Channels(fraction=0.25)(leanly.capture(Net().eval(), example=rows(2))).save(tmp_path / "cut")
    return Graph.open(tmp_path / "cut")


def test_a_module_of_a_graph_is_called_like_the_user_s(cut: Graph) -> None:
    module = cut.as_module()
    given = rows(5)
    torch.testing.assert_close(module(*given)["logits"], cut(*given)["logits"], rtol=0, atol=0)
    assert list(inspect.signature(module.forward).parameters) == ["x", "states", "input_2"]
    assert dict(module.named_parameters()).keys() == dict(cut.named_parameters()).keys()
    twin = copy.deepcopy(module).train()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(*given)["logits"], given[1][0], rtol=0, atol=0)
    assert twin.graph.training and not cut.training
    assert all(float(weight.detach().abs().sum()) > 0 for weight in cut.parameters() if weight.ndim > 1)


def test_capture_gives_a_copy_that_knows_what_was_cut(cut: Graph) -> None:
    for model in (cut, cut.as_module()):
        again = leanly.capture(model, example=rows(3))
        assert again is not cut and again.fingerprint() == cut.fingerprint()
        assert again.kept.keys() == cut.kept.keys() and again.inputs == cut.inputs
    with pytest.raises(CaptureError, match="structure of the first capture"):
        leanly.capture(cut, example=(torch.randn(2, 8), torch.randn(2, 4)))


def test_what_was_opened_is_cut_again_refitted_and_taught(cut: Graph) -> None:
    x = torch.randn(64, 8)
    simple = leanly.capture(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), example=x[:2])
    once = Channels(fraction=0.25)(simple)
    task = leanly.Task(once, example=x[:2], train=(x, torch.arange(64) % 4), metric="accuracy")
    task.check()
    twice = Refit()(Channels(macs=0.3, importance="gradient")(once, task), task)
    taught = leanly.distill.Distill(epochs=1)(twice, task)
    assert len(taught.kept["0.weight"][0]) < len(once.kept["0.weight"][0]) < 32
    assert {*taught.kept["0.weight"][0].tolist()} <= {*once.kept["0.weight"][0].tolist()}


@pytest.mark.parametrize(
    ("example", "settings"),
    [
        (torch.zeros(2, 7), {}),
        (torch.zeros(2, 6, 1), {}),
        (torch.zeros(2, 6, dtype=torch.int64), {}),
        (torch.zeros(2, 6), {"dynamic": {"input": {1: "length"}}}),
    ],
)
def test_an_example_that_the_graph_does_not_take_is_refused(example, settings):
    graph = leanly.capture(nn.Linear(6, 3).eval(), example=torch.zeros(2, 6))
    assert leanly.capture(graph, example=torch.zeros(5, 6)).fingerprint() == graph.fingerprint()
    with pytest.raises(CaptureError, match=r"and the graph takes float32 \['batch', 6\]"):
        leanly.capture(graph, example=example, **settings)

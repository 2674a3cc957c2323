"""A cut examined: what left of each layer, and the drop over all rows and by class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, SettingError
from leanly.measurement.cut import examine_cut
from leanly.prune import Channels, Layers, batch_norm_scale, gradient, magnitude
from leanly.training.evaluation import evaluate


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.first(x)))


@pytest.fixture(scope="module")
def task() -> leanly.Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), Residual(), Residual(), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.randn(300, 8)
    y = model(x).argmax(1)
    y[:30] = (y[:30] + 1) % 3
    return leanly.Task(model, example=x[:2], train=(x, y), validation=(x[:100], y[:100]), test=(x[100:], y[100:]))


@pytest.fixture(scope="module")
def graph(task: leanly.Task) -> leanly.Graph:
    return leanly.capture(task.model, example=task.example).eval()


def test_shapes_shares_and_the_drop_are_those_of_the_cut(graph: leanly.Graph, task: leanly.Task) -> None:
    small = Channels(fraction=0.5, importance=magnitude)(graph, task)
    report = examine_cut(graph, small, task, [magnitude, gradient])
    before, after = dict(graph.named_parameters()), dict(small.named_parameters())
    assert [layer.before for layer in report.layers] == [tuple(p.shape) for n, p in before.items() if "weight" in n]
    assert [layer.after for layer in report.layers] == [tuple(p.shape) for n, p in after.items() if "weight" in n]
    layer = next(layer for layer in report.layers if layer.before == (16, 8))
    scores = magnitude(graph, task)["0.weight"]
    kept = small.kept["0.weight"][0]
    assert layer.taken["magnitude"] == pytest.approx(1 - float(scores[kept].sum() / scores.sum()))
    assert layer.weights_taken == pytest.approx(1 - len(kept) / 16)
    assert layer.taken["magnitude"] < layer.weights_taken, "the least important leave"
    assert report.macs == (graph.cost().macs, small.cost().macs) and report.criteria == ("magnitude", "gradient")
    validation = task.split("validation")
    assert validation is not None and set(report.untrained) == {"magnitude", "gradient"}
    alike = Channels(macs=1 - report.macs[1] / report.macs[0], importance=gradient)(graph, task)
    assert report.untrained["gradient"] == pytest.approx(evaluate(alike, task, validation))
    test = task.split("test")
    assert test is not None and report.split == "test"
    assert report.before == pytest.approx(evaluate(graph, task, test))
    assert report.drop.drop.value == pytest.approx(report.before - report.after)
    weights = np.array([one.drop.n for one in report.classes]) / report.drop.n
    drops = np.array([one.before - one.after for one in report.classes])
    assert float(weights @ drops) == pytest.approx(report.drop.drop.value)


def test_a_second_cut_is_told_apart_from_the_first(graph: leanly.Graph, task: leanly.Task) -> None:
    once = Channels(macs=0.3, importance=magnitude)(graph, task)
    twice = Channels(macs=0.3, importance=magnitude)(once, task)
    nothing = examine_cut(once, once, task, [magnitude])
    assert {share for layer in nothing.layers for share in layer.taken.values()} == {0.0} and not nothing.untrained
    report = examine_cut(once, twice, task, [magnitude])
    for layer in report.layers:
        assert 0 <= layer.taken["magnitude"] <= layer.weights_taken + 1e-9


def test_layers_that_are_gone_and_criteria_that_cannot_score_are_named(graph: leanly.Graph, task: leanly.Task) -> None:
    report = examine_cut(graph, Layers(count=1)(graph, task), task, [magnitude, batch_norm_scale])
    gone = [layer for layer in report.layers if not layer.after]
    assert len(gone) == 2 and all(layer.taken["magnitude"] == 1.0 == layer.weights_taken for layer in gone)
    assert report.criteria == ("magnitude",) and "batch_norm_scale says nothing here" in report.notes[0]


def test_the_scales_of_norms_score_the_layers_before_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 3))
    nn.init.uniform_(model[1].weight)
    x, y = torch.randn(40, 3, 8, 8), torch.arange(40) % 3
    task = leanly.Task(model.eval(), example=x[:2], train=(x, y), test=(x, y))
    graph = leanly.capture(model, example=x[:2]).eval()
    small = Channels(fraction=0.5, importance=batch_norm_scale)(graph, task)
    convolution, linear = examine_cut(graph, small, task, [batch_norm_scale]).layers
    scales = model[1].weight.detach().sort().values
    assert convolution.taken["batch_norm_scale"] == pytest.approx(float(scales[:8].sum() / scales.sum()), abs=1e-6)
    assert not linear.taken


def test_rows_are_asked_for(graph: leanly.Graph) -> None:
    x = torch.randn(4, 8)
    task = leanly.Task(graph_model(), example=x[:2], train=(x, torch.zeros(4, dtype=torch.long)))
    with pytest.raises(DataError, match="verified on rows"):
        examine_cut(graph, graph, task, [magnitude])


def graph_model() -> nn.Module:
    return nn.Linear(8, 3).eval()


class Recurrent(nn.Module):
    """Weights that no argument calls `weight`: those of an LSTM, and one that is multiplied by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.matrix = nn.LSTM(4, 5, batch_first=True), nn.Parameter(torch.randn(5, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0][:, -1] @ self.matrix


def test_weights_under_any_name_and_zeros_that_stay_are_shown() -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    x, y = torch.randn(40, 6, 4), torch.arange(40) % 3
    own = leanly.Task(model, example=x[:2], train=(x, y), validation=(x, y))
    graph = leanly.capture(model, example=x[:2]).eval()
    small = graph.clone()
    with torch.no_grad():
        dict(small.named_parameters())["matrix"][0] = 0
    report = examine_cut(graph, small, own, [magnitude], max_drop="1%")
    zeros = {layer.before: layer.zeros for layer in report.layers}
    assert set(zeros) == {(20, 4), (20, 5), (5, 3)}
    assert zeros[5, 3] == pytest.approx(0.2) and zeros[20, 4] == 0.0 and report.max_drop == 0.01


@pytest.mark.parametrize(
    "wrong, told",
    [
        (lambda graph, small, task: (small, graph, task, [magnitude]), "the whole network first"),
        (lambda graph, small, task: (graph, task, small, [magnitude]), "a Task was given where a Graph"),
        (lambda graph, small, task: (graph, small, task, ["magnitude"]), "give functions of leanly.prune"),
    ],
)
def test_arguments_in_another_order_and_names_of_criteria_are_refused(graph, task, wrong, told) -> None:
    small = Channels(fraction=0.5)(graph, task)
    with pytest.raises(SettingError, match=told):
        examine_cut(*wrong(graph, small, task))


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (
            nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 3)),
            r"0\.weight is \(20, 8\), before the cut \(16, 8\)",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), "no weight has the same name"),
    ],
)
def test_a_network_that_is_no_part_of_the_first_is_refused(graph, task, second: nn.Module, told: str) -> None:
    other = leanly.capture(second.eval(), example=task.example)
    with pytest.raises(SettingError, match=told):
        examine_cut(graph, other, task, [magnitude])

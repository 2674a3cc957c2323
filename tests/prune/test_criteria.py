"""Each criterion against what it is by hand, and all of them in a cut."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, LeanlyWarning, SettingError
from leanly.graph import capture
from leanly.prune import importance
from tests.prune.surgery import scrambled

ROWS = 64


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU()]
    return scrambled(nn.Sequential(*layers, nn.Flatten(), nn.Linear(6 * 16, 4)))


def task_of(model: nn.Module, x: torch.Tensor) -> leanly.Task:
    return leanly.Task(model, example=x[:2], train=(x, torch.arange(len(x)) % 4))


@pytest.fixture(scope="module")
def case() -> tuple[nn.Sequential, leanly.Graph, leanly.Task]:
    model, x = network().eval(), torch.randn(ROWS, 3, 8, 8)
    return model, capture(model, example=x[:2]), task_of(model, x)


def test_l1_is_the_absolute_weight(case) -> None:
    model, graph, _ = case
    found = leanly.prune.magnitude_l1(graph)
    assert set(found) == {"0.weight", "3.weight", "6.weight"}
    torch.testing.assert_close(found["3.weight"], model[3].weight.detach().abs())


def test_scales_of_batch_norm_alone_count(case) -> None:
    model, graph, _ = case
    found = leanly.prune.batch_norm_scale(graph)
    assert set(found) == {"1.weight"}
    torch.testing.assert_close(found["1.weight"], model[1].weight.detach().abs())
    plain = capture(nn.Linear(3, 2), example=torch.randn(2, 3))
    with pytest.raises(SettingError, match="no batch norm"):
        leanly.prune.batch_norm_scale(plain)


def test_the_filter_in_the_middle_of_the_others_counts_least() -> None:
    model = nn.Linear(2, 5)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]))
    found = leanly.prune.geometric_median(capture(model, example=torch.randn(2, 2)))["weight"].sum(1)
    torch.testing.assert_close(found[4], torch.tensor(4.0, dtype=found.dtype))
    # from (1, 0): 2 to the other side, the root of 2 twice, 1 to the middle
    torch.testing.assert_close(found[0], torch.tensor(3 + 2 * math.sqrt(2), dtype=found.dtype))
    assert int(found.argmin()) == 4


def test_a_filter_whose_weights_are_alike_has_no_entropy() -> None:
    model = nn.Linear(64, 3)
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.full((64,), 0.5), torch.linspace(-1, 1, 64), torch.ones(64)]))
        model.weight[2, :32] = -1
    found = leanly.prune.weight_entropy(capture(model, example=torch.randn(2, 64)))["weight"].sum(1)
    expected = [0.0, math.log(32), math.log(2)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0.02, atol=1e-9)


def test_a_filter_that_gives_the_same_for_every_row_has_no_entropy(case) -> None:
    model, _, task = case
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[3].weight[2] = 0
    found = leanly.prune.activation_entropy(capture(other, example=task.example), task)
    each = found["3.weight"].sum((1, 2, 3))
    assert float(each[2]) == 0 and float(each[[0, 1, 3, 4, 5]].min()) > 1
    assert set(found) == {"0.weight", "3.weight", "6.weight"}


def test_fisher_is_the_mean_square_of_the_slope_along_a_filters_gate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    x, y = torch.randn(20, 5), torch.arange(20) % 3
    task = leanly.Task(model, example=x[:2], train=(x, y))
    found = leanly.prune.fisher(capture(model, example=x[:2]), task)
    gates = torch.ones(4, requires_grad=True)
    squares = torch.zeros(4)
    for row, label in zip(x, y, strict=True):
        logits = model[2](torch.tanh(gates * model[0](row)))
        loss = nn.functional.cross_entropy(logits, label)
        squares += torch.autograd.grad(loss, gates)[0].square()
    torch.testing.assert_close(found["0.weight"].sum(1).float(), squares, rtol=1e-4, atol=1e-7)


def test_expected_gradient_is_the_slope_on_classes_that_the_network_draws() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    x = torch.randn(20, 5)
    found = leanly.prune.expected_gradient(capture(model, example=x[:2]), task_of(model, x))
    logits = model(x)
    drawn = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits, drawn), [model[0].weight])
    torch.testing.assert_close(found["0.weight"].float(), (model[0].weight * slope).abs(), rtol=1e-4, atol=1e-7)


def total(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.sum()


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy", "mse", total])
def test_expected_gradient_reads_no_labels(loss, case) -> None:
    model, graph, task = case
    x = task.split("train").flat_batches(ROWS).__next__()[0][0]
    found = []
    for labels in (torch.zeros(ROWS), torch.full((ROWS,), float("nan"))):
        about = leanly.Task(model, example=x[:2], train=(x, labels), loss=loss)
        found.append(leanly.prune.expected_gradient(graph, about))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert min(float(found[0][f"{layer}.weight"].sum()) for layer in (0, 3, 6)) > 0


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_short_last_batch_counts_by_its_rows(loss: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1 if loss == "mse" else 3)).eval()
    x = torch.randn(33, 6)
    totals = []
    for rows in (32, 33):
        task = leanly.Task(model, example=x[:2], train=(x[:rows], torch.zeros(rows)), loss=loss, metric="mse")
        totals.append(sum(map(torch.sum, leanly.prune.expected_gradient(capture(model, example=x[:2]), task).values())))
    assert 0.8 < float(totals[1]) / float(totals[0]) < 1.25


class Step(nn.Module):
    """What comes out follows no parameter smoothly, or only in part."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.one, self.two, self.end = nn.Linear(5, 8), nn.Linear(8, 3), end
        self.kinds = nn.Parameter(torch.arange(3) % 2, requires_grad=False)

    def forward(self, x: torch.Tensor) -> Any:
        hidden = torch.relu(self.one(x))
        logits = self.two(hidden)
        if self.end == "step":
            return (logits > 0).float()
        if self.end == "no_grad":
            with torch.no_grad():
                return self.two(torch.relu(self.one(x)))
        if self.end == "scalar":
            return logits, hidden.square().mean()
        if self.end == "integers first":
            values, places = logits.topk(2)
            return places, values
        return logits * self.kinds


@pytest.mark.filterwarnings("ignore::leanly.errors.LeanlyWarning")
@pytest.mark.parametrize("end", ["step", "no_grad", "scalar", "integers first", "integer parameter"])
def test_a_cut_without_a_criterion_runs_on_awkward_outputs(end: str) -> None:
    torch.manual_seed(0)
    model, x = Step(end).eval(), torch.randn(20, 5)
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(20, 3)), loss="mse", metric=lambda a, b: 0.0)
    small = leanly.prune.Channels(fraction=0.5)(capture(model, example=x[:2]), task)
    assert len(small.kept["one.weight"][0]) == 4


def test_what_gives_no_numbers_has_no_expected_gradient() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(torch.relu(self.one(x))).argmax(1)

    model, x = Chosen().eval(), torch.randn(20, 5)
    graph, task = capture(model, example=x[:2]), task_of(model, x)
    with pytest.raises(DataError, match="no output has a slope"):
        leanly.prune.expected_gradient(graph, task)
    with pytest.warns(LeanlyWarning, match="argmax"):
        assert len(leanly.prune.Channels(fraction=0.5)(graph, task).kept["one.weight"][0]) == 4


def test_rows_decide_where_no_criterion_is_named(case) -> None:
    _, graph, task = case
    asked = {name: leanly.prune.Channels(macs=0.4, importance=name) for name in ("magnitude", "expected_gradient")}
    kept = {name: cut(graph, task).kept["0.weight"][0].tolist() for name, cut in asked.items()}
    assert kept["magnitude"] != kept["expected_gradient"], "the case can't tell them apart"
    unnamed = leanly.prune.Channels(macs=0.4)
    assert unnamed(graph).kept["0.weight"][0].tolist() == kept["magnitude"]
    assert unnamed(graph, task).kept["0.weight"][0].tolist() == kept["expected_gradient"]


def test_second_order_is_what_is_lost_where_the_other_weights_make_up_for_one() -> None:
    torch.manual_seed(0)
    mixing = torch.eye(6) + 0.3 * torch.randn(6, 6)
    model, x = nn.Linear(6, 2, bias=False).eval(), torch.randn(500, 6) @ mixing
    task = leanly.Task(model, example=x[:2], train=(x, torch.randn(500, 2)), loss="mse", metric=lambda a, b: 0.0)
    found = leanly.prune.second_order(capture(model, example=x[:2]), task)["weight"]
    wanted = x.double() @ model.weight.detach().double().T
    for column in range(6):
        others = [place for place in range(6) if place != column]
        solved = torch.linalg.lstsq(x[:, others].double(), wanted)
        lost = (x[:, others].double() @ solved.solution - wanted).square().sum(0)
        torch.testing.assert_close(found[:, column], lost, rtol=0.2, atol=1e-3)


def test_lamp_is_the_share_of_a_square_among_those_no_smaller() -> None:
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -1.0, 2.0]]))
    found = leanly.prune.lamp(capture(model, example=torch.randn(2, 3)))["weight"]
    torch.testing.assert_close(found, torch.tensor([[1.0, 1 / 14, 4 / 13]], dtype=found.dtype))


def test_random_is_the_same_each_time_and_knows_nothing(case) -> None:
    model, graph, _ = case
    first, second = leanly.prune.random(graph), leanly.prune.random(graph)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[3].weight.zero_()
    assert torch.equal(
        leanly.prune.random(capture(other, example=torch.randn(2, 3, 8, 8)))["3.weight"], first["3.weight"]
    )


@pytest.mark.parametrize("name", [name for name in importance.CRITERIA if name != "skipping"])
def test_every_criterion_cuts_a_network_and_leaves_it_as_it_was(name: str, case) -> None:
    _, graph, task = case
    before = graph.fingerprint()
    small = leanly.prune.Channels(macs=0.4, importance=name)(graph, task)
    assert graph.fingerprint() == before
    assert 0.5 < small.cost().macs / graph.cost().macs < 0.7
    assert small(torch.randn(3, 3, 8, 8)).shape == (3, 4)


@pytest.mark.parametrize("name", ["activation_entropy", "expected_gradient", "fisher", "second_order"])
def test_criteria_that_read_rows_say_that_there_are_none(name: str, case) -> None:
    _, graph, _ = case
    with pytest.raises(DataError, match=f"importance '{name}' needs"):
        importance.CRITERIA[name](graph, None)

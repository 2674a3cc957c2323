"""Refit: what is left makes up for what was cut, exactly where it can."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, SettingError
from leanly.graph import capture
from leanly.prune import Channels, Refit
from tests.once import once
from tests.prune.surgery import scrambled

ROWS = 200


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.two = nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.one(x)))
        x = torch.relu(self.two(x))
        return self.head(x.mean((2, 3)))


@once
def case() -> tuple[leanly.Graph, leanly.Task, torch.Tensor]:
    model, x = scrambled(Net()).eval(), torch.randn(ROWS, 3, 6, 6)
    return capture(model, example=x[:2]), leanly.Task(model, example=x[:2], train=(x, torch.arange(ROWS) % 5)), x


def error(graph: leanly.Graph, small: leanly.Graph, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((graph(x) - small(x)).square().mean())


def test_a_copy_of_another_channel_is_not_missed() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(ROWS, 4)
    with torch.no_grad():
        model[0].weight[3:], model[0].bias[3:] = model[0].weight[:3].clone(), model[0].bias[:3].clone()
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(ROWS) % 3))
    graph = capture(model, example=x[:2])
    importance = {"0.weight": torch.tensor([2.0, 2.0, 2.0, 1.0, 1.0, 1.0])[:, None].expand(6, 4)}
    small = Channels(fraction=0.5, importance=lambda graph, task: importance)(graph, task)
    assert len(small.kept["0.weight"][0]) == 3
    refitted = Refit(damping=1e-9)(small, task)
    assert error(graph, small, x) > 0.01 and error(graph, refitted, x) < 1e-9


def test_rows_that_are_fewer_than_the_weights_of_an_output_do_no_harm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 50)).eval()
    x = torch.randn(500, 20) @ torch.randn(20, 300)
    task = leanly.Task(model, example=x[:2], train=(x[:24], None))
    graph = capture(model, example=x[:2])
    small = Channels(fraction=0.3)(graph, task)
    assert error(graph, Refit()(small, task), x[24:]) < error(graph, small, x[24:])


@pytest.mark.parametrize(("rows", "worse"), [(40, 0.001), (2000, 10.0)])
def test_damping_is_found_on_rows_left_out(rows: int, worse: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 80), nn.ReLU(), nn.Linear(80, 20)).eval()
    x = torch.randn(rows + 500, 20) @ torch.randn(20, 100)
    task = leanly.Task(model, example=x[:2], train=(x[:rows], None))
    graph = capture(model, example=x[:2])
    small = Channels(fraction=0.5)(graph, task)
    found, unseen = Refit(samples=rows)(small, task), x[rows:]
    assert error(graph, found, unseen) < 0.9 * error(graph, Refit(samples=rows, damping=worse)(small, task), unseen)
    assert error(graph, found, unseen) < 0.9 * error(graph, small, unseen)


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1, "output_padding": 1}], ids=["plain", "strided"])
def test_a_transposed_convolution_makes_up_for_what_it_read_and_for_what_it_lost(settings: dict[str, int]) -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(6, 8, 3, **settings)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), up, nn.Conv2d(8, 2, 1), nn.Flatten()).eval()
    x = torch.randn(ROWS, 3, 6, 6)
    with torch.no_grad():
        for one in (model[0].weight, model[0].bias):
            one[3:] = one[:3].clone()
        up.weight[:, 4:], up.bias[4:] = up.weight[:, :4].clone(), up.bias[:4].clone()
    task = leanly.Task(model, example=x[:2], train=(x, None), metric="mse", loss="mse")
    graph = capture(model, example=x[:2])
    first, second = torch.ones(6, 3, 3, 3), torch.ones(6, 8, 3, 3)
    first[:3], second[:, :4] = 2, 2
    importance = {"0.weight": first, "2.weight": second}
    small = Channels(fraction=0.5, importance=lambda graph, task: importance)(graph, task)
    assert [len(kept) for kept in small.kept["2.weight"][:2]] == [3, 4]
    refitted = Refit(damping=1e-9)(small, task)
    assert error(graph, small, x) > 1e-3 and error(graph, refitted, x) < 1e-9


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_outputs_come_nearer_to_those_before_the_cut(fraction: float) -> None:
    graph, task, x = case()
    small = Channels(fraction=fraction)(graph, task)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    refitted = Refit()(small, task)
    assert error(graph, refitted, x) < 0.5 * error(graph, small, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items()), "the input changed"
    assert refitted.kept.keys() == small.kept.keys()


def test_what_was_not_cut_stays_as_it_is() -> None:
    graph, task, x = case()
    assert error(graph, Refit()(graph, task), x) < 1e-9


def test_a_second_cut_is_refitted_to_what_the_first_one_left() -> None:
    graph, task, x = case()
    first = Channels(fraction=0.25)(graph, task)
    second = Channels(fraction=0.25)(first, task)
    assert error(first, Refit(teacher=first)(second, task), x) < error(first, second, x)


@pytest.mark.parametrize("shared", [False, True])
def test_the_mean_of_a_norm_makes_up_for_a_constant_that_left(shared: bool) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)
            self.three = nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.two(torch.relu(self.one(x))))
            return self.three(torch.relu(self.norm(x) if shared else x))

    torch.manual_seed(0)
    model, x = scrambled(Normed()).eval(), torch.randn(ROWS, 3, 8, 8)
    with torch.no_grad():
        model.get_parameter("one.weight")[0], model.get_parameter("one.bias")[0] = 0, 3
    graph = capture(model, example=x[:2])
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(ROWS, dtype=torch.long)))
    importance = {"one.weight": torch.arange(6.0)[:, None, None, None].expand(6, 3, 3, 3)}
    small = Channels(fraction=1 / 6, importance=lambda graph, task: importance)(graph, task)
    refitted = Refit(damping=1e-9)(small, task)
    weights, means = (
        [one.state_dict()[name] for one in (small, refitted)] for name in ("two.weight", "norm.running_mean")
    )
    assert torch.allclose(*weights, atol=1e-4) != shared and torch.equal(*means) == shared
    assert error(graph, refitted, x) < error(graph, small, x) * (1 if shared else 0.01)


def test_what_can_not_be_refitted_is_refused() -> None:
    graph, task, x = case()
    with pytest.raises(DataError, match="refitting needs rows"):
        Refit()(graph)
    with pytest.raises(SettingError, match="damping is 0"):
        Refit(damping=0)
    other = capture(nn.Sequential(nn.Flatten(), nn.Linear(108, 5)), example=x[:2])
    with pytest.raises(SettingError, match="no layer of the graph is a part"):
        Refit(teacher=capture(nn.Sequential(nn.Flatten(), nn.ReLU()), example=x[:2]))(other, task)


class Branches(nn.Module):
    """A sum of two branches: one can make up for what the other lost."""

    def __init__(self, *, normed: bool) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.rand(6, 1, 1) + 0.5), nn.Conv2d(6, 6, 1, bias=not normed)
        self.norm = nn.BatchNorm2d(6) if normed else nn.Identity()
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.layer(x)) + x * self.scale))


@pytest.mark.parametrize("normed", [False, True])
def test_a_branch_makes_up_for_what_the_other_one_lost(normed: bool) -> None:
    torch.manual_seed(0)
    model, x = scrambled(Branches(normed=normed)).eval(), torch.randn(ROWS, 6, 4, 4)
    graph = capture(model, example=x[:2])
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(ROWS, dtype=torch.long)))
    lost = graph.clone()
    with torch.no_grad():
        lost.module.get_parameter("scale").zero_()
    refitted = Refit(damping=1e-9)(lost, task)
    assert error(graph, lost, x) > 0.01 and error(graph, refitted, x) < 1e-6


def test_weights_are_solved_for_the_statistics_that_are_there() -> None:
    torch.manual_seed(0)
    model = scrambled(nn.Sequential(nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))).eval()
    x = torch.randn(ROWS, 6, 4, 4)
    graph = capture(model, example=x[:2])
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(ROWS, dtype=torch.long)))
    trained = graph.clone()
    with torch.no_grad():
        trained.module.get_buffer("1.running_var").mul_(3)
        trained.module.get_buffer("1.running_mean").add_(1)
    assert error(graph, trained, x) > 0.01 and error(graph, Refit(damping=1e-9)(trained, task), x) < 1e-6


def test_a_channel_that_a_norm_silences_is_solved_in_front_of_it() -> None:
    torch.manual_seed(0)
    model, x = scrambled(Branches(normed=True)).eval(), torch.randn(ROWS, 6, 4, 4)
    with torch.no_grad():
        model.get_submodule("norm").get_parameter("weight")[2] = 0
    graph = capture(model, example=x[:2])
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(ROWS, dtype=torch.long)))
    weight = graph.module.get_parameter("layer.weight").clone()
    lost = graph.clone()
    with torch.no_grad():
        lost.module.get_parameter("scale").zero_()
    refitted = Refit(damping=1e-9)(lost, task).module.get_parameter("layer.weight")
    assert torch.allclose(refitted[2], weight[2], atol=1e-5) and not torch.allclose(refitted[1], weight[1], atol=0.1)


@pytest.mark.parametrize("shape", [(), (6, 1, 1), (1, 6, 1, 1)], ids=str)
def test_what_is_the_same_for_all_rows_is_no_branch(shape: tuple[int, ...]) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.shift = nn.Conv2d(6, 6, 3), nn.Parameter(torch.rand(shape))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + self.shift * 2

    torch.manual_seed(0)
    model, x = Shifted().eval(), torch.randn(ROWS, 6, 4, 4)
    graph = capture(model, example=x[:2])
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(ROWS, dtype=torch.long)))
    assert error(graph, Refit()(graph, task), x) < 1e-9


class Tokens(nn.Module):
    """A batch norm whose channels are tokens, as many as the layer before it has features."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.norm(self.one(x))))


class Positive(nn.Module):
    """A batch norm whose scale is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.scale = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Parameter(torch.randn(8))
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("variance", torch.rand(8) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = self.get_buffer("variance")
        normed = nn.functional.batch_norm(self.one(x), self.get_buffer("mean"), variance, self.scale.abs() + 0.5)
        return self.two(torch.relu(normed))


@pytest.mark.parametrize(("net", "shape"), [(Tokens, (8, 6)), (Positive, (3, 5, 5))])
def test_a_norm_that_can_not_be_turned_back_changes_nothing(net: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = scrambled(net()).eval(), torch.randn(ROWS, *shape)
    graph = capture(model, example=x[:2])
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(ROWS, dtype=torch.long)))
    assert error(graph, Refit()(graph, task), x) < 1e-9


def test_layers_that_share_a_bias_are_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.two.bias = self.one.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.three(torch.relu(self.two(torch.relu(self.one(x)))))

    torch.manual_seed(0)
    model, x = Shared().eval(), torch.randn(ROWS, 6)
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(ROWS, dtype=torch.long)))
    graph = capture(model, example=x[:2])
    assert any("left as they are: linear, linear_1" in note for note in Refit()(graph, task).notes)

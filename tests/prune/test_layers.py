"""Layers as a pass: which ones leave, what it refuses, and as data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import leanly
from leanly.errors import DataError, SettingError
from leanly.prune import Layers, gradient, magnitude, skipping
from leanly.recipe import Recipe
from leanly.training import BatchNorm


class Chain(nn.Module):
    """Residual layers, each as strong as its factor says."""

    def __init__(self, factors: tuple[float, ...], width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in factors)
        self.head = nn.Linear(width, 3)
        for layer, factor in zip(self.layers, factors, strict=True):
            layer.weight.data.mul_(factor)
            layer.bias.data.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.head(x)


FACTORS = (1.0, 0.1, 0.5, 0.01)


def case(factors: tuple[float, ...] = FACTORS, **splits) -> tuple[leanly.Graph, leanly.Task]:
    model, x = Chain(factors).eval(), torch.randn(64, 6)
    task = leanly.Task(model, example=x[:2], train=(x, model(x).argmax(1)), **splits)
    return leanly.capture(model, example=x[:2]), task


def gone(short: leanly.Graph) -> set[int]:
    return {int(name.split(".")[1]) for name in short.kept}


@pytest.mark.parametrize("importance", [magnitude, gradient, skipping, "magnitude", "gradient", "skipping"])
def test_the_least_important_leave_first(importance):
    graph, task = case()
    for count, expected in ((1, {3}), (2, {1, 3}), (3, {1, 2, 3})):
        assert gone(Layers(count, importance=importance)(graph, task)) == expected


def test_of_equal_ones_the_later_leaves():
    graph, _ = case((1.0, 1.0, 1.0))
    assert gone(Layers(1, importance=lambda graph, task: {})(graph)) == {2}


def test_skipping_is_what_the_outputs_move_and_needs_no_labels():
    graph, task = case()
    found = skipping(graph, task)
    assert set(found) == {name for name, _ in graph.named_parameters() if name.startswith("layers")}
    x, _ = task.train
    with torch.no_grad():
        before = task.model(x)
        for number in range(4):
            y = x
            for place, layer in enumerate(task.model.layers):
                y = y if place == number else y + torch.relu(layer(y))
            moved = (task.model.head(y) - before).square().sum() / (before - before.mean(0)).square().sum()
            total = found[f"layers.{number}.weight"].sum() + found[f"layers.{number}.bias"].sum()
            assert float(total) == pytest.approx(float(moved), rel=1e-4)
    for held in (None, leanly.Task(task.model, example=task.example)):
        with pytest.raises(DataError, match="importance 'skipping' needs rows"):
            skipping(graph, held)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "two"])
def test_a_count_below_one(count):
    with pytest.raises(SettingError, match="count is"):
        Layers(count)


def test_more_than_there_are():
    graph, _ = case()
    with pytest.raises(SettingError, match=r"5 layers are to be removed, and the network has 4 .*use count=4 or less"):
        Layers(5)(graph)
    plain = leanly.capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), example=torch.rand(2, 4))
    with pytest.raises(SettingError, match=r"the network has 0 that can be.*use leanly\.prune\.Channels"):
        Layers(1)(plain)


def test_an_importance_that_needs_labels_without_them():
    graph, task = case()
    with pytest.raises(DataError, match="needs labelled data"):
        Layers(1, importance=gradient)(graph)
    with pytest.raises(DataError, match="needs labelled data"):
        Layers(1, importance=gradient)(graph, leanly.Task(task.model, example=task.example))


def test_an_importance_that_is_no_number():
    graph, _ = case()
    with pytest.raises(SettingError, match=r"importance of a layer is nan.*test_layers\.py:\d+: x = x \+ torch.relu"):
        Layers(1, importance=lambda graph, task: {"layers.1.bias": torch.tensor([float("nan")])})(graph)
    with pytest.raises(SettingError, match="no importance named 'size'"):
        Layers(1, importance="size")


def test_a_recipe_round_trip():
    recipe = Recipe((Layers(2, importance=skipping), BatchNorm(), leanly.distill.Distill()))
    assert recipe.to_json()[0] == {"pass": "prune.Layers", "count": 2, "importance": "skipping"}
    assert Recipe.from_json(recipe.to_json()) == recipe and recipe.portable
    own = Recipe((Layers(importance=lambda graph, task: {}),))
    assert not own.portable
    with pytest.raises(SettingError, match=r"not portable: importance of prune\.Layers was the user's own"):
        Recipe.from_json(own.to_json())


def test_removed_distilled_and_measured_by_one_recipe():
    graph, task = case()
    settings = leanly.training.Settings(batch_size=16, learning_rate=0.01)
    recipe = Recipe((Layers(2), leanly.distill.Distill(epochs=10, settings=settings)))
    short = recipe(graph, task)
    x, y = task.train
    assert gone(short) == {1, 3}
    assert float((short(x).argmax(1) == y).float().mean()) > 0.9


class Repeated(nn.Module):
    """Four blocks, of which two and two are one module."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        one, other = nn.Linear(6, 6), nn.Linear(6, 6)
        other.weight.data.mul_(0.1)
        self.layers, self.head = nn.ModuleList([one, one, other, other]), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.head(x)


def test_weights_that_several_blocks_share_leave_with_the_last_of_them():
    graph = leanly.capture(Repeated().eval(), example=torch.randn(2, 6))
    names = {f"layers.{place}.{part}" for place in (2, 3) for part in ("weight", "bias")}
    once, both = Layers(count=1)(graph), Layers(count=2)(graph)
    assert not any(once.kept.get(name, ()) is None for name in names)
    assert names & {*dict(once.named_parameters())}
    assert {name for name, places in both.kept.items() if places is None} == names
    assert both.cost().parameters == sum(parameter.numel() for parameter in both.parameters())
    short, x = Repeated().eval(), torch.randn(5, 6)
    short.layers = short.layers[:2]
    assert torch.allclose(both(x), short(x), atol=1e-6)

"""Sparse: the right weights become zero, in the pattern asked for, and stay so in training."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import leanly
from leanly.distill import Distill
from leanly.errors import SettingError
from leanly.graph import capture
from leanly.prune import Refit, Sparse, SparseGPT, lamp, magnitude_l1
from leanly.quantize import Static
from leanly.recipe import Recipe
from leanly.training import Settings
from tests.once import once
from tests.prune.surgery import scrambled


@once
def case() -> tuple[leanly.Graph, leanly.Task]:
    layers = [nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()]
    model, x = scrambled(nn.Sequential(*layers, nn.Linear(128, 5))).eval(), torch.randn(40, 4, 8, 8)
    return capture(model, example=x[:2]), leanly.Task(model, example=x[:2], train=(x, torch.arange(40) % 5))


WEIGHTS = ("0.weight", "3.weight", "6.weight")


def zeros(graph: leanly.Graph, name: str) -> float:
    return float((graph.state_dict()[name] == 0).float().mean())


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_the_smallest_of_each_layer_leave(sparsity: float) -> None:
    graph, _ = case()
    before = graph.state_dict()
    sparse = Sparse(sparsity=sparsity)(graph)
    for name in WEIGHTS:
        assert zeros(sparse, name) == pytest.approx(sparsity, abs=0.01)
        gone = sparse.state_dict()[name] == 0
        assert before[name][gone].abs().max() <= before[name][~gone].abs().min()
    assert torch.equal(sparse.state_dict()["0.bias"], before["0.bias"]) and not zeros(graph, "0.weight")


def test_over_the_whole_network_layers_lose_what_they_can_spare() -> None:
    graph, _ = case()
    with torch.no_grad():
        graph.module.get_parameter("6.weight")[:, 5:] *= 1e-3
    sparse = Sparse(sparsity=0.5, scope="network", importance=lamp)(graph)
    shares = {name: zeros(sparse, name) for name in WEIGHTS}
    sizes = {name: graph.state_dict()[name].numel() for name in WEIGHTS}
    assert sum(shares[name] * sizes[name] for name in WEIGHTS) / sum(sizes.values()) == pytest.approx(0.5, abs=0.01)
    assert shares["6.weight"] > shares["3.weight"]


def test_of_every_four_inputs_two_stay() -> None:
    graph, _ = case()
    sparse = Sparse(pattern=(2, 4))(graph)
    for name in WEIGHTS:
        weight = sparse.state_dict()[name].movedim(1, -1)
        assert bool(((weight.reshape(*weight.shape[:-1], -1, 4) != 0).sum(-1) == 2).all())


def test_zeros_stay_in_training_and_the_rest_learns() -> None:
    graph, task = case()
    sparse = Sparse(sparsity=0.7)(graph)
    taught = Distill(graph, epochs=2, settings=Settings(batch_size=8, keep_zeros=True))(sparse, task)
    for name in WEIGHTS:
        assert zeros(taught, name) == pytest.approx(zeros(sparse, name))
        assert not torch.equal(taught.state_dict()[name], sparse.state_dict()[name])
    loose = Distill(graph, epochs=2, settings=Settings(batch_size=8))(sparse, task)
    assert zeros(loose, "0.weight") < 0.1
    assert any("70% of the weights were zero" in note and "keep_zeros=True" in note for note in loose.notes)
    assert any("Refit: 70% of the weights were zero" in note for note in Refit(graph)(sparse, task).notes)
    dense = Distill(graph, epochs=1, settings=Settings(batch_size=8))(graph, task)
    assert not any("were zero" in note for note in (*taught.notes, *dense.notes))


def test_a_second_time_takes_more_of_the_same() -> None:
    graph, _ = case()
    once = Sparse(sparsity=0.4)(graph)
    twice = Sparse(sparsity=0.6)(once)
    for name in WEIGHTS:
        assert bool((twice.state_dict()[name][once.state_dict()[name] == 0] == 0).all())
        assert zeros(twice, name) == pytest.approx(0.6, abs=0.01)


def test_layers_named_stay_dense_and_a_recipe_keeps_it() -> None:
    graph, _ = case()
    sparse = Sparse(sparsity=0.5, dense=("conv2d",))(graph)
    assert zeros(sparse, "0.weight") == 0 < zeros(sparse, "3.weight")
    recipe = Recipe((Sparse(pattern=(1, 4), importance=lamp, dense=("conv2d",)),))
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "neither sparsity nor pattern|neither sparsity and pattern"),
        ({"sparsity": 0.5, "pattern": (2, 4)}, "both sparsity and pattern"),
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"pattern": (4, 2)}, "pattern=\\(4, 2\\)"),
        ({"sparsity": 0.5, "scope": "all"}, "scope='all'"),
    ],
)
def test_what_can_not_be_asked_for_is_refused(settings, told) -> None:
    with pytest.raises(SettingError, match=told):
        Sparse(**settings)


def test_inputs_that_do_not_divide_are_named() -> None:
    graph, _ = case()
    with pytest.raises(SettingError, match=r"8 does not divide the inputs: 4 of conv2d.*dense=\('conv2d'"):
        Sparse(pattern=(4, 8))(graph)
    with pytest.raises(SettingError, match="dense names 'conv'"):
        Sparse(sparsity=0.5, dense=("conv",))(graph)


def test_a_threshold_takes_the_weights_nearer_to_zero_than_it() -> None:
    graph, _ = case()
    before = graph.state_dict()
    sparse = Sparse(threshold=0.05, importance=magnitude_l1)(graph)
    for name in WEIGHTS:
        assert torch.equal(sparse.state_dict()[name] == 0, before[name].abs() < 0.05)
    assert 0 < zeros(sparse, "6.weight") < 1
    assert any("zeros take less storage; no runtime here skips them" in note for note in sparse.notes)
    with pytest.raises(SettingError, match=r"nothing would be left of .*use a threshold of at most 0\.\d+") as told:
        Sparse(threshold=1e3, importance=magnitude_l1)(graph)
    assert zeros(Sparse(threshold=fitting(told), importance=magnitude_l1)(graph), "6.weight") < 1


def test_a_layer_is_not_emptied_for_the_others() -> None:
    graph, _ = case()
    with torch.no_grad():
        graph.module.get_parameter("3.weight").mul_(1e-6)
    with pytest.raises(SettingError, match=r'nothing would be left of 3\.weight.*scope="layer"'):
        Sparse(sparsity=0.9, scope="network")(graph)
    with pytest.raises(SettingError, match="nothing would be left") as told:
        Sparse(sparsity=0.99999)(graph)
    Sparse(sparsity=fitting(told))(graph)
    graph, _ = case()
    with pytest.raises(SettingError, match="use a sparsity of at most") as told:
        Sparse(sparsity=0.9999, scope="network")(graph)
    Sparse(sparsity=fitting(told), scope="network")(graph)


def fitting(told: pytest.ExceptionInfo[SettingError]) -> float:
    return float(told.value.remedy.split("at most ")[1].split(",")[0])


@pytest.mark.parametrize("dense", ["linear", "linear_1"])
@pytest.mark.parametrize("method", [Sparse(sparsity=0.5), SparseGPT(sparsity=0.5)], ids=lambda one: type(one).__name__)
def test_a_shared_weight_stays_whole_for_one_that_is_dense(method: Sparse | SparseGPT, dense: str) -> None:
    torch.manual_seed(0)
    layer, head = nn.Linear(8, 8), nn.Linear(8, 3)
    model, x = nn.Sequential(layer, nn.ReLU(), layer, head).eval(), torch.randn(20, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(20, dtype=torch.long)))
    sparse = dataclasses.replace(method, dense=(dense,))(capture(model, example=x[:2]), task)
    assert [zeros(sparse, name) for name in ("0.weight", "3.weight")] == [0.0, 0.5]


@pytest.mark.parametrize("method", [Sparse(sparsity=0.5), SparseGPT(sparsity=0.5)], ids=lambda one: type(one).__name__)
def test_what_is_quantized_is_not_thinned(method: Sparse | SparseGPT) -> None:
    graph, task = case()
    with pytest.raises(SettingError, match=rf"quantized already.*put {type(method).__name__} before that"):
        method(Static()(graph, task), task)

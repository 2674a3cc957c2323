"""Reconstruct: weights on their integers, outputs nearer to the float ones than by rounding to the nearest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, SettingError
from leanly.graph.quantizer import of_weight
from leanly.graph.tensors import find
from leanly.quantize import LearnSteps, Reconstruct, Static, WeightsOnly
from leanly.quantize.quantizers import read_affine
from leanly.quantize.reconstruction import _mixed
from leanly.recipe import Recipe
from tests.quantize.networks import error, off_grid, perceptron, residual

QUICK = {"iterations": 150, "samples": 96, "batch_size": 32}
FEW = {**QUICK, "iterations": 20}
"""Enough where nothing is said of how good the outcome is."""


@pytest.mark.parametrize("unit", ["block", "layer"])
@pytest.mark.parametrize("network", [residual, perceptron])
def test_outputs_come_nearer_than_by_rounding_to_the_nearest(network, unit):
    graph, task = network()
    nearest = Static(weights=3, activations=8)(graph, task)
    rounded = Reconstruct(unit=unit, drop=0.0, **QUICK)(nearest, task)
    assert off_grid(rounded) < 1e-3
    assert error(graph, rounded, task) < 0.8 * error(graph, nearest, task)


def test_every_weight_goes_up_or_down_by_less_than_a_step():
    graph, task = residual()
    nearest = Static(weights=3)(graph, task)
    rounded = Reconstruct(fit=False, **QUICK)(nearest, task)
    for node in nearest.module.graph.nodes:
        if of_weight(node):
            name = str(node.args[0].target)
            before, after = (g.module.get_parameter(name).detach() for g in (nearest, rounded))
            affine = read_affine(nearest.module, node)
            scale, _ = affine.along(before)
            bound = affine.high / scale
            clamped = torch.minimum(torch.maximum(before, -bound), bound)
            assert ((after - clamped).abs() * scale).max() < 1 + 1e-4


def test_scales_of_activations_are_learned_and_help_where_bits_are_few():
    graph, task = residual()
    few = Static(weights=8, activations=3, observer="minmax")(graph, task)
    fixed = Reconstruct(steps=False, drop=0.5, **QUICK)(few, task)
    learned = Reconstruct(steps=True, drop=0.5, **QUICK)(few, task)
    assert error(graph, learned, task) < error(graph, fixed, task)


@pytest.mark.parametrize("network", [residual, perceptron])
def test_biases_and_scales_of_weights_are_fitted_to_the_roundings(network):
    graph, task = network()
    few = Static(weights=3, activations=8)(graph, task)
    rounded, fitted = (Reconstruct(steps=False, fit=fit, **QUICK)(few, task) for fit in (False, True))
    names = [name for name, _ in few.module.named_parameters() if name.endswith("bias")]
    names += [f"quantizers.{node.args[0].name}.scale" for node in few.module.graph.nodes if of_weight(node)]
    for name in names:
        before, kept, moved = (find(g.module, name) for g in (few, rounded, fitted))
        assert torch.equal(before, kept) and not torch.equal(before, moved), name
    assert off_grid(fitted) < 1e-3
    assert error(graph, fitted, task) < error(graph, rounded, task)


def test_steps_of_weights_alone_stay_numbers_of_float16():
    graph, task = perceptron()
    packed = WeightsOnly(bits=4, group=16)(graph, task)
    fitted = Reconstruct(**QUICK)(packed, task)
    for node in fitted.module.graph.nodes:
        if of_weight(node):
            before, after = (find(g.module, str(node.args[1].target)) for g in (packed, fitted))
            assert torch.equal(before, after)
    assert off_grid(fitted) < 1e-3
    assert error(graph, fitted, task) < error(graph, packed, task)


def test_heads_are_rounded_to_the_nearest_and_named():
    class Heads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.one, self.two = (torch.nn.Linear(16, 16) for _ in range(3))

        def forward(self, x):
            h = torch.relu(self.trunk(x))
            return self.one(h), self.two(h)

    rounded = _rounded(Heads())
    assert off_grid(rounded) < 1e-3
    (note,) = (note for note in rounded.notes if "Reconstruct" in note)
    assert "one.weight" in note and "two.weight" in note and "trunk" not in note


def test_a_layer_whose_bias_is_computed_is_learned_with_its_block():
    class Doubled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Linear(16, 16)

        def forward(self, x):
            return torch.nn.functional.linear(torch.relu(x), self.one.weight, 2 * self.one.bias)

    assert off_grid(_rounded(Doubled(), unit="layer")) < 1e-3


def test_learned_steps_stay_parameters_and_gradients_are_not_left():
    graph, task = perceptron()
    steps = LearnSteps()(Static(weights=4)(graph, task), task)
    with torch.inference_mode():
        rounded = Reconstruct(**FEW)(steps, task)
    assert {name for name, _ in rounded.module.named_parameters()} == {n for n, _ in steps.module.named_parameters()}
    assert all(parameter.grad is None for parameter in rounded.module.parameters())


def _rounded(model, **settings):
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    task = leanly.Task(model.eval(), example=(x[:2],), train=(x, torch.zeros(64)))
    graph = Static(weights=4)(leanly.capture(model, example=(x[:2],)), task)
    return Reconstruct(**settings, **QUICK)(graph, task)


def test_a_bias_that_two_layers_share_stays():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
            self.two.bias = self.one.bias

        def forward(self, x):
            return self.two(torch.relu(self.one(x)))

    model = Shared()
    rounded = _rounded(model)
    (bias,) = (value for name, value in rounded.module.named_parameters() if "bias" in name)
    assert torch.equal(bias, model.one.bias)


def test_the_same_seed_gives_the_same_weights_and_the_input_stays():
    graph, task = perceptron()
    nearest = Static(weights=4)(graph, task)
    before = nearest.fingerprint()
    one, two = (Reconstruct(**FEW)(nearest, task).fingerprint() for _ in range(2))
    assert one == two != Reconstruct(seed=1, **FEW)(nearest, task).fingerprint()
    assert nearest.fingerprint() == before


def test_a_graph_that_trains_is_read_as_it_evaluates():
    torch.manual_seed(0)
    x = torch.randn(96, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)).eval()
    task = leanly.Task(model, example=x[:2], train=(x, None))
    graph = Static(weights=3)(leanly.capture(model, example=x[:2]), task)
    wanted = Reconstruct(**FEW)(graph, task).fingerprint()
    assert Reconstruct(**FEW)(graph.train(), task).fingerprint() == wanted and graph.training


def test_it_is_data_in_a_recipe_and_tells_its_progress():
    shares: list[float] = []
    step = Reconstruct(iterations=1, samples=8, progress=shares.append)
    graph, task = residual()
    recipe = Recipe((Static(weights=4), step))
    recipe(graph, task)
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) == 3
    assert Recipe.from_json(recipe.to_json()).passes == recipe.passes


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 0},
        {"unit": "net"},
        {"drop": 1.0},
        {"rate": 0.0},
        {"samples": 0},
        {"batch_size": True},
        {"fit": 1},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        Reconstruct(**settings)


def test_a_float_graph_and_a_task_without_rows_are_refused():
    graph, task = perceptron()
    with pytest.raises(SettingError, match="no quantized weights"):
        Reconstruct()(graph, task)
    with pytest.raises(DataError, match="calibration needs data"):
        Reconstruct()(Static()(graph, task), None)


def test_shared_weights_are_rounded_once():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one = torch.nn.Linear(16, 16)

        def forward(self, x):
            return self.one(torch.relu(self.one(x)))

    assert off_grid(_rounded(Twice())) < 1e-3


@pytest.mark.parametrize("drop", [0.25, 0.5, 0.999])
def test_the_share_that_stays_exact_is_drawn_evenly(drop: float) -> None:
    torch.manual_seed(0)
    quantized, exact = torch.full((40, 9, 37), 2.0, requires_grad=True), torch.full((40, 9, 37), 5.0)
    mixed = _mixed(quantized, exact, drop)
    assert set(mixed.unique().tolist()) == {2.0, 5.0}
    for dim in range(3):
        shares = (mixed == 5.0).double().mean([other for other in range(3) if other != dim])
        assert shares.mean().item() == pytest.approx(drop, abs=0.02) and shares.std() < 0.05
    mixed.sum().backward()
    assert torch.equal(quantized.grad, (mixed == 2.0).float())

"""Mixed: few bits where they are not missed, within the average that was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, SettingError
from leanly.quantize import Mixed, Static
from leanly.quantize.quantizers import read_affine, weight_quantizers
from leanly.recipe import Recipe
from tests.quantize.networks import error, residual


def bits_of(graph: leanly.Graph) -> dict[str, int]:
    found = weight_quantizers(graph, "test")
    affine = {name: read_affine(graph.module, node) for name, node in found.items()}
    return {name: (entry.high - entry.low + 1).bit_length() for name, entry in affine.items()}


def average(graph: leanly.Graph, bits: dict[str, int]) -> float:
    sizes = {name: tensor.numel() for name, tensor in graph.state_dict().items() if name in bits}
    return sum(bits[name] * size for name, size in sizes.items()) / sum(sizes.values())


@pytest.mark.parametrize("asked", [2.0, 3.0, 4.5, 8.0])
def test_the_average_is_kept_and_used(asked: float) -> None:
    graph, task = residual()
    mixed = Mixed(average=asked, choices=(2, 3, 4, 5, 6, 7))(graph, task) if asked < 8 else None
    mixed = mixed or Mixed(average=asked, static=Static(kernels="openvino"))(graph, task, leanly.Target("cpu"))
    found = average(mixed, bits_of(mixed))
    assert found <= asked and (asked == 8 or found > asked - 1)


def test_bits_go_where_they_are_missed() -> None:
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval(),
        torch.randn(64, 16),
    )
    with torch.no_grad():
        model[2].weight.mul_(0.01)  # its values hardly reach the outputs beside its bias
        model[2].bias.fill_(1.0)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 4))
    graph = leanly.capture(model, example=x[:2])
    found = bits_of(Mixed(average=4.0)(graph, task))
    assert found["0.weight"] > found["2.weight"] < found["4.weight"]


def test_it_moves_the_outputs_less_than_as_many_bits_everywhere() -> None:
    graph, task = residual()
    static = Static(activations=8)
    mixed, even = Mixed(average=3.0, static=static)(graph, task), Static(weights=3)(graph, task)
    assert error(graph, mixed, task) < error(graph, even, task)
    assert any("bits of weights: conv2d " in note for note in mixed.notes)


def test_the_graph_it_is_given_does_not_change() -> None:
    graph, task = residual()
    before = graph.fingerprint()
    Mixed()(graph, task)
    assert graph.fingerprint() == before


def test_a_recipe_keeps_it() -> None:
    recipe = Recipe((Mixed(average=3.5, static=Static(activations=6)),))
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_what_can_not_be_asked_for_is_refused() -> None:
    graph, _ = residual()
    with pytest.raises(SettingError, match="average=9"):
        Mixed(average=9)
    with pytest.raises(SettingError, match="choices"):
        Mixed(choices=(4,))
    with pytest.raises(SettingError, match="choices"):
        Mixed(choices=(1, 4))
    with pytest.raises(DataError, match="calibration needs data"):
        Mixed()(graph)

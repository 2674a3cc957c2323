"""Mixed: few bits where they are not missed, float where they are, within the average and the time that are given."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import leanly
from leanly.costs import PrecisionTimes
from leanly.errors import DataError, SettingError
from leanly.quantize import Mixed, Reconstruct, Static
from leanly.quantize.alone import Sensitivity, sensitivities
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


LAYERS = {
    "stem": Sensitivity(100, False, {4: 9.0, 8: 5.0}),
    "middle": Sensitivity(400, False, {4: 3.0, 8: 1.0}),
    "tied": Sensitivity(100, True, {4: 50.0, 8: 40.0}),
    "head": Sensitivity(400, False, {4: 8.0, 8: 4.0}),
}


def times(**floats: float) -> PrecisionTimes:
    """Layers of one second in integers, and of so many in float."""
    return PrecisionTimes({name: {"int8": 1.0, "float32": floats.get(name, 9.0)} for name in LAYERS})


def settled(**settings) -> tuple[set[str], dict[str, int]]:
    static = Mixed(**{"average": None, "choices": (8,), **settings}).settled(LAYERS)
    return set(static.float_nodes), dict(static.weight_bits)


def test_float_goes_where_it_mends_most_within_the_time() -> None:
    dear = times(stem=1.5, middle=1.3, head=1.3)
    assert settled(times=dear, slower=0.0)[0] == set(), "no time, no float"
    assert settled(times=dear, slower=0.07)[0] == set()
    assert settled(times=dear, slower=0.08)[0] == {"head"}
    assert settled(times=dear, slower=0.125)[0] == {"stem"}
    assert settled(times=dear, slower=0.2)[0] == {"stem", "head"}, "of four seconds, 0.8 are left to be spent"
    assert settled(times=dear, slower=0.3)[0] == {"stem", "middle", "head"}
    assert settled(times=dear, slower=9.0)[0] == {"stem", "middle", "head"}, "a shared weight stays rounded"


def test_a_layer_whose_bits_are_named_does_not_go_to_float() -> None:
    named = Static(layer_bits=(("head", 8),))
    assert settled(times=times(stem=1.5, middle=1.3, head=1.3), slower=0.3, static=named)[0] == {"stem", "middle"}


def test_the_worst_layer_is_the_first_in_float_where_that_costs_no_time() -> None:
    free = times(stem=1.0, middle=1.0, head=1.0)
    assert settled(times=free, slower=0.0)[0] == {"stem", "middle", "head"}
    floats, bits = settled(times=free, slower=0.0, average=11.0)
    assert floats == {"stem"} and set(bits.values()) == {8}, "a tenth of the weights takes 32 bits instead of 8"


def test_float_is_of_the_precision_that_was_measured() -> None:
    table = PrecisionTimes({"stem": {"int8": 1.0, "bfloat16": 1.1}, "head": {"int8": 1.0, "float32": 1.1}})
    assert settled(times=table, slower=1.0, rest="bfloat16")[0] == {"stem"}
    assert settled(times=table, slower=1.0)[0] == {"head"}


def test_both_limits_hold_at_once() -> None:
    floats, bits = settled(times=times(stem=1.5, head=1.5), slower=0.125, average=8.8, choices=(4, 8))
    assert floats == {"stem"}, "there is time for one; the bits of its weights are taken from others"
    assert 32 * 100 + sum(bits[name] * LAYERS[name].weights for name in bits) == 8.8 * 1000
    assert bits == {"middle": 4, "tied": 8, "head": 8}


def test_what_it_makes_holds_what_was_chosen() -> None:
    graph, task = residual()
    table = PrecisionTimes(
        {name: {"int8": 1.0, "float32": 1.1} for name in ("conv2d", "conv2d_1", "conv2d_2", "linear")}
    )
    mixed = Mixed(average=None, choices=(8,), times=table, slower=0.03, static=Static(kernels="onnxruntime"))
    made = mixed(graph, task)
    assert len(bits_of(made)) == 3, "one layer in float"
    even = Static(kernels="onnxruntime")(graph, task)
    assert error(graph, made, task) < error(graph, even, task)
    (note,) = [note for note in made.notes if "quantize.Mixed" in note]
    assert note.count(" 8") == 3 and note.count(" float") == 1


def test_a_recipe_keeps_what_layers_take() -> None:
    recipe = Recipe((Mixed(average=None, times=times(stem=2.0), slower=0.1, rest="bfloat16"),))
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe and hash(again.passes) == hash(recipe.passes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"times": {"layers": {"conv": {"float32": 1.0}}}}, "the seconds of 'conv'"),
        ({"times": 3}, "times is 3"),
        ({"choices": (8,)}, "two or more"),
        ({"slower": -0.1}, "slower=-0.1"),
        ({"rest": "float16"}, "rest='float16'.*float32 or bfloat16"),
        ({"average": 33.0, "times": {"layers": {}}}, "average=33"),
        ({"rest": "bfloat16"}, "rest='bfloat16' are of layers in float, and none is without times"),
        ({"slower": 0.2}, "slower=0.2 and"),
        ({"static": {"weight_bits": {"conv": 4}}}, "weight_bits=.*which Mixed chooses"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Mixed(**settings)


class Chosen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x))).argmax(1)


@pytest.mark.parametrize("passes", [(Mixed(),), (Static(weights=4), Reconstruct(iterations=1))])
def test_outputs_that_are_no_floats_are_refused(passes: tuple) -> None:
    x = torch.randn(16, 8)
    graph = leanly.capture(Chosen().eval(), example=x[:2])
    task = leanly.Task(graph, example=x[:2], train=(x, None), metric="mse", loss="mse")
    with pytest.raises(SettingError, match=r"no floats.*return.* its logits"):
        Recipe(passes)(graph, task)


class Logarithm(nn.Module):
    """Behind the first layer little is above zero: where that is rounded away, outputs become NaN."""

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(33, 16), nn.Linear(16, 4)
        self.least = -float(self.first(x).detach().min()) + 0.005

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.log(self.first(x) + self.least))


def test_bits_that_make_outputs_nan_are_not_chosen():
    torch.manual_seed(0)
    x = torch.randn(64, 33)
    model = Logarithm(x).eval()
    graph = leanly.capture(model, example=x[:2])
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 4))
    kept = Mixed(average=None, rows=64)
    lost = sensitivities(Static()(graph, task), [[x]], kept.choices, "channel")["linear"].errors
    finite = [bits for bits, error in lost.items() if math.isfinite(error)]
    assert 0 < len(finite) < len(kept.choices), "some bits are of no use here, and some are"
    assert dict(kept.settled({"linear": Sensitivity(10, False, lost)}).weight_bits)["linear"] in finite
    nan = {"linear": Sensitivity(10, False, dict.fromkeys(kept.choices, math.nan))}
    with pytest.raises(DataError, match=r"outputs become NaN or infinite.*Mixed, linear"):
        kept.settled(nan)

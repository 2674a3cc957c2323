"""Quantized weights that training makes as small as is asked for: reckoned as they are coded, and with little lost."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import leanly
from leanly.distill import Distill
from leanly.entropy import encode
from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.graph.quantizer import fake_quantize
from leanly.quantize import LearnSteps, Static
from leanly.training import Settings
from leanly.training.coded_size import CodedSize, offer_for, price_of
from leanly.training.codes import QuantizedWeight, coded_bytes, quantized_weights
from leanly.training.evaluation import evaluate

HOW = Settings(batch_size=32, learning_rate=3e-3)


@cache
def digits() -> tuple[Graph, leanly.Task]:
    """A network of two layers that knows digits, and what it learned them from."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images).float() / 16, torch.from_numpy(labels)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)).eval()
    task = leanly.Task(model, example=x[:2], train=(x[:1200], y[:1200]), validation=(x[1200:], y[1200:]))
    return leanly.train(task, epochs=15, settings=HOW), task


def quantized(granularity: str = "tensor") -> Graph:
    graph, task = digits()
    return LearnSteps()(Static(weights=4, activations=8, granularity=granularity)(graph, task))


def taught(size: float | str | None, epochs: int = 10, **more: object) -> Graph:
    graph, task = digits()
    settings = Settings(batch_size=32, learning_rate=3e-3, coded_size=size)
    return Distill(graph, epochs, settings=settings, **more)(quantized(), task)  # type: ignore[arg-type]


def size_of(graph: Graph) -> float:
    return coded_bytes(quantized_weights(graph))


def size_of_codes(weight: QuantizedWeight, codes: Tensor) -> float:
    return coded_bytes([weight._replace(value=weight.value_of(codes))])


def accuracy(graph: Graph) -> float:
    _, task = digits()
    split = task.split("validation")
    assert split is not None
    return evaluate(graph, task, split)


def codes(graph: Graph) -> list[Tensor]:
    """Read the codes of both layers out of what the quantizers make of the weights."""
    found = graph.state_dict()
    both = []
    for name in ("0", "2"):
        scale = found[f"quantizers._{name}_weight.scale"].reshape(-1, 1)
        both.append((found[f"{name}.weight"] * scale).round().clamp(-7, 7).to(torch.int8))
    return both


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_the_size_is_about_what_the_coder_takes(granularity):
    graph = quantized(granularity)
    written = sum(len(encode(np.ascontiguousarray(found.numpy().view(np.uint8))) or b"") for found in codes(graph))
    assert size_of(graph) == pytest.approx(written, rel=0.03)


def moved(weight: QuantizedWeight, far: float) -> Tensor:
    """Return what a few steps could have made of a weight."""
    return weight.value.detach() + far * torch.randn(weight.value.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_codes_stand_for_what_the_quantizer_makes_of_weights(granularity):
    for weight in quantized_weights(quantized(granularity)):
        free = moved(weight, 0.1)
        made = fake_quantize(free, weight.scale, weight.shift, weight.axis, weight.low, weight.high)
        torch.testing.assert_close(weight.value_of(weight.steps(free).round()), made, rtol=0, atol=0)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("price", [0.0, 1e-5, 1e-4, 1e3])
def test_a_weight_takes_the_nearest_code_the_next_towards_zero_or_zero_whichever_costs_least(granularity, price):
    weight, _ = quantized_weights(quantized(granularity))
    weight = weight._replace(value=moved(weight, 0.02))
    free = weight.value
    offer = offer_for(weight)
    nearest, chosen = weight.steps(free).round(), offer.chosen(price)
    assert bool(((chosen == nearest) | (chosen == nearest - nearest.sign()) | (chosen == 0)).all())
    squares = [(weight.value_of(codes) - free) ** 2 for codes in offer.codes]
    for error, square in zip(offer.errors, squares, strict=True):
        torch.testing.assert_close(error / error.sum(), square / square.sum())
    costs = torch.stack([error + price * bits for error, bits in zip(offer.errors, offer.bits, strict=True)])
    taken = torch.where(torch.stack(list(offer.codes)) == chosen, costs, torch.inf).amin(0)
    torch.testing.assert_close(taken, costs.amin(0), rtol=0, atol=0)


def test_weights_are_drawn_to_the_most_frequent_code_over_gaps_and_from_beyond_the_last():
    graph = quantized().clone()
    weight, scale = (graph.module.get_parameter(name) for name in ("0.weight", "quantizers._0_weight.scale"))
    with torch.no_grad():
        steps = torch.tensor([0.0, -3.0, 3.0, 6.0, -9.0]).repeat(weight.numel() // 5 + 1)[: weight.numel()]
        steps[::2] = 0.0
        weight.copy_((steps / scale).reshape(weight.shape))
    pressed = CodedSize(graph, 1)
    pressed.begin(0, 10)
    pressed.penalty(1.0).backward()
    assert weight.grad is not None
    assert bool((weight.grad * weight >= 0).all()) and bool(((weight.grad * weight > 0) == (weight != 0)).all())


def test_codes_that_are_spread_evenly_are_drawn_to_zero():
    weight, _ = quantized_weights(quantized().clone())
    codes = torch.arange(weight.low, weight.high + 1).repeat(-(-weight.value.numel() // 15))[: weight.value.numel()]
    with torch.no_grad():
        weight.value.copy_(weight.value_of(codes.reshape(weight.value.shape).float()))
    offer = offer_for(weight)
    assert not bool(offer.chosen(1e3).any())
    assert size_of_codes(weight, offer.chosen(price_of([offer], 300))) <= 300


@pytest.mark.parametrize("size", [100, 400, 900, 3000])
def test_the_price_is_the_least_that_gives_the_size(size):
    weights = [weight._replace(value=moved(weight, 0.02)) for weight in quantized_weights(quantized())]
    offers = [offer_for(weight) for weight in weights]
    price = price_of(offers, size)
    taken, more = (
        sum(size_of_codes(offer.weight, offer.chosen(one)) for offer in offers) for one in (price, price * 0.99)
    )
    assert taken <= size and (more > size or price == 0)
    assert (price == 0) == (size == 3000)


def test_training_ends_below_the_size_with_little_lost(tmp_path):
    before, plain, small = quantized(), taught(None), taught("0.7kB", epochs=20)
    assert size_of(before) > 1400 < size_of(plain)
    assert 650 < size_of(small) <= 700
    assert accuracy(small) >= accuracy(before) - 0.015
    bytes_of = {
        name: leanly.lower(graph, runtime="onnxruntime", to=tmp_path / name, precision="int8").payload_bytes
        for name, graph in (("plain", plain), ("small", small))
    }
    assert bytes_of["plain"] - bytes_of["small"] > 650


def test_few_steps_are_enough():
    before, small = quantized(), taught(700, epochs=3)
    assert size_of(small) <= 700
    assert accuracy(small) >= accuracy(before) - 0.03


def test_weights_that_are_frozen_keep_their_codes():
    graph, task = digits()
    start = quantized()
    start.module.get_parameter("0.weight").requires_grad_(False)
    whole = size_of(start)
    small = Distill(graph, 4, settings=Settings(batch_size=32, learning_rate=3e-3, coded_size=whole - 100))(start, task)
    assert size_of(small) <= whole - 100
    assert torch.equal(small.state_dict()["0.weight"], start.state_dict()["0.weight"])


def test_a_size_that_is_not_reached_is_told():
    few = taught(5, epochs=1)
    assert any("bytes entropy-coded, 5 are asked for" in note for note in few.notes)
    assert size_of(taught(60, epochs=1)) <= 60
    assert not any("entropy-coded" in note for note in taught(1e6, epochs=1).notes)


def test_only_states_of_that_size_come_back():
    metrics = {}

    def watch(progress):
        metrics[progress.step] = progress.metric

    small = taught(200, epochs=6, progress=watch)
    assert metrics[0] > accuracy(small), "the start is more accurate, and too large"
    assert size_of(small) <= 200


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    def stop(progress):
        if progress.step == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        taught(900, epochs=4, folder=tmp_path / "run", progress=stop)
    again, whole = taught(900, epochs=4, folder=tmp_path / "run"), taught(900, epochs=4)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_without_quantized_weights_there_is_nothing_to_code():
    graph, task = digits()
    with pytest.raises(SettingError, match="no weight is quantized"):
        Distill(graph, 1, settings=Settings(coded_size="1kB"))(graph, task)


@pytest.mark.parametrize("names", [("0.weight",), ("0.weight", "2.weight")])
def test_frozen_weights_that_leave_no_room_are_refused(names):
    graph, task = digits()
    start = quantized()
    for name in names:
        start.module.get_parameter(name).requires_grad_(False)
    with pytest.raises(SettingError, match=r"that are frozen take 1,[0-9]{3} bytes, 600 are asked for"):
        Distill(graph, 1, settings=Settings(coded_size=600))(start, task)

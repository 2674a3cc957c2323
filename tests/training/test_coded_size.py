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
from leanly.quantize import LearnSteps, Static
from leanly.training import Settings
from leanly.training.coded_size import CodedSize
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
    assert CodedSize(graph, 1000).bytes() == pytest.approx(written, rel=0.03)


def test_weights_are_drawn_to_the_most_frequent_code_over_gaps_and_from_beyond_the_last():
    graph = quantized().clone()
    weight, scale = (graph.module.get_parameter(name) for name in ("0.weight", "quantizers._0_weight.scale"))
    with torch.no_grad():
        steps = torch.tensor([0.0, -3.0, 3.0, 6.0, -9.0]).repeat(weight.numel() // 5 + 1)[: weight.numel()]
        steps[::2] = 0.0
        weight.copy_((steps / scale).reshape(weight.shape))
    CodedSize(graph, 1).penalty(1.0, 0.0, 0.1).backward()
    assert weight.grad is not None
    assert bool((weight.grad * weight >= 0).all()) and bool(((weight.grad * weight > 0) == (weight != 0)).all())


def test_training_ends_below_the_size_with_little_lost(tmp_path):
    before, plain, small = quantized(), taught(None), taught("0.7kB", epochs=20)
    assert CodedSize(before, 1).bytes() > 1400 < CodedSize(plain, 1).bytes()
    assert 650 < CodedSize(small, 1).bytes() <= 700
    assert accuracy(small) >= accuracy(before) - 0.015
    bytes_of = {
        name: leanly.lower(graph, runtime="onnxruntime", to=tmp_path / name, precision="int8").payload_bytes
        for name, graph in (("plain", plain), ("small", small))
    }
    assert bytes_of["plain"] - bytes_of["small"] > 650


def test_a_size_that_is_not_reached_is_told():
    few = taught(60, epochs=1)
    assert any("bytes entropy-coded, 60 are asked for" in note for note in few.notes)
    assert not any("entropy-coded" in note for note in taught(1e6, epochs=1).notes)


def test_only_states_of_that_size_come_back():
    metrics = {}

    def watch(progress):
        metrics[progress.step] = progress.metric

    small = taught(500, epochs=6, progress=watch)
    assert metrics[0] > accuracy(small), "the start is more accurate, and too large"
    assert CodedSize(small, 1).bytes() <= 500


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

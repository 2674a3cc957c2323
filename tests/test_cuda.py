"""The same work on a CUDA device: passes choose there what they choose on the CPU, and what is trained comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import leanly
from leanly import prune
from leanly.distill import Distill
from leanly.quantize import Binary, CorrectBias, LearnSteps, Reconstruct, Static
from leanly.recipe import Recipe
from leanly.training import BatchNorm, Settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
EXACT = Settings(precision="float32", batch_size=16)


def image_task() -> leanly.Task:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(),
        nn.Linear(16, 3),
    )  # fmt: skip
    labels = torch.arange(144) % 3
    x = torch.randn(144, 2, 8, 8) + 0.5 * labels[:, None, None, None]
    rows = (x[:96], labels[:96]), (x[96:], labels[96:])
    return leanly.Task(model.eval(), example=x[:2], train=rows[0], validation=rows[1])


def weights(graph: leanly.Graph) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in graph.state_dict().items()}


def one_bit(graph: leanly.Graph, task: leanly.Task) -> leanly.Graph:
    return Binary(samples=32)(graph, task)


def few_bits(graph: leanly.Graph, task: leanly.Task) -> leanly.Graph:
    return LearnSteps(shifts=True)(Static(weights=4, activations=4, samples=32)(graph, task), task)


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def captured(task: leanly.Task) -> leanly.Graph:
    return leanly.capture(task.model, example=task.example).eval()


def outputs(graph: leanly.Graph, task: leanly.Task) -> torch.Tensor:
    split = task.split("train")
    assert split is not None
    inputs, _ = next(split.flat_batches(32))
    with torch.no_grad():
        return graph.flat(*(tensor.to(graph.device) for tensor in inputs))[0].cpu()


PASSES: dict[str, Callable[[], Any]] = {
    "channels by magnitude": lambda: prune.Channels(macs=0.4),
    "channels by gradient": lambda: prune.Channels(macs=0.4, importance=prune.gradient),
    "channels, refitted": lambda: Recipe((prune.Channels(fraction=0.3), prune.Refit(samples=64))),
    "sparse": lambda: prune.Sparse(0.5),
    "SparseGPT": lambda: prune.SparseGPT(0.5),
    "batch norm": lambda: BatchNorm(rows=64, batch_size=16),
    "8 bits": lambda: Static(samples=32),
    "4 bits": lambda: Static(weights=4, activations=4, samples=32),
    "signs": lambda: Binary(samples=32),
    "signs of weights": lambda: Binary(activations=32),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_gives_what_it_gives_on_the_cpu(name: str):
    task = image_task()
    here = PASSES[name]()(captured(task), task)
    there = PASSES[name]()(captured(task).to("cuda"), task)
    assert there.device.type == "cuda"
    torch.testing.assert_close(outputs(there, task), outputs(here, task), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("learned", [lambda: Reconstruct(iterations=20, samples=32, batch_size=16), CorrectBias])
def test_what_is_learned_after_quantization_runs_there(learned: Callable[[], Any]):
    task = image_task()
    start = Static(weights=4, activations=8, samples=32)(captured(task), task)
    there = learned()(start.clone().to("cuda"), task)
    assert there.device.type == "cuda"
    torch.testing.assert_close(outputs(there, task), outputs(start, task), rtol=0, atol=1.0)


@pytest.mark.parametrize("start", [lambda graph, task: graph, few_bits, one_bit])
def test_a_student_is_taught_there_as_here(start: Callable[..., leanly.Graph]):
    task = image_task()
    student = start(captured(task), task)
    here = Distill(epochs=1, settings=EXACT)(student, task)
    there = Distill(epochs=1, settings=EXACT)(student.clone().to("cuda"), task)
    assert there.device.type == "cuda"
    taught = weights(there)
    for name, weight in weights(here).items():
        torch.testing.assert_close(taught[name], weight, rtol=0.05, atol=0.02)


def test_the_default_is_bfloat16_and_learns():
    task = image_task()
    seen = []
    Distill(epochs=3, settings=Settings(batch_size=16), progress=lambda told: seen.append(told.loss))(
        captured(task).to("cuda"), task
    )
    losses = [loss for loss in seen if loss is not None]
    assert losses[-1] < losses[0]


def test_a_run_that_ended_is_not_done_again(tmp_path):
    task = image_task()
    teach = Distill(epochs=2, settings=EXACT, folder=tmp_path)
    first = teach(captured(task).to("cuda"), task)
    second = teach(captured(task).to("cuda"), task)
    again = weights(second)
    for name, weight in weights(first).items():
        assert torch.equal(again[name], weight)


def test_a_model_that_lies_there_is_captured_saved_and_opened(tmp_path):
    task = image_task()
    example = tuple(leaf.to("cuda") for leaf in captured(task).example)
    graph = leanly.capture(task.model.to("cuda"), example=example).eval()
    assert graph.device.type == "cuda"
    graph.save(tmp_path / "graph")
    opened = leanly.Graph.open(tmp_path / "graph")
    torch.testing.assert_close(outputs(opened, task), outputs(graph, task), rtol=1e-4, atol=1e-4)


def test_what_was_trained_there_is_lowered_here(tmp_path):
    task = image_task()
    graph = captured(task)
    artifact = leanly.lower(graph.clone().to("cuda"), runtime="onnxruntime", to=tmp_path / "lowered")
    predictor = leanly.runtimes.open_artifact(artifact)
    split = task.split("train")
    assert split is not None
    inputs, _ = next(split.flat_batches(4))
    found = predictor.run([tensor.numpy() for tensor in inputs])
    torch.testing.assert_close(torch.from_numpy(found[0]), outputs(graph, task)[:4], rtol=1e-4, atol=1e-4)

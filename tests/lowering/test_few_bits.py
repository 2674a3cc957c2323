"""Activations of few bits: a runtime saturates where the graph does, though its integers reach further."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.lowering.proof import sqnr
from leanly.measurement.attribution import MULTIPLIES
from leanly.quantize import Static
from leanly.runtimes import open_artifact
from tests.once import once


@once
def convolutions() -> tuple[leanly.Graph, leanly.Task]:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 10)
    ).eval()
    return captured(model, torch.randn(64, 3, 8, 8))


@once
def biased() -> tuple[leanly.Graph, leanly.Task]:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    for layer in model[::2]:
        nn.init.uniform_(layer.bias, -1, 1)
    return captured(model, torch.randn(512, 32))


def captured(model: nn.Module, x: torch.Tensor) -> tuple[leanly.Graph, leanly.Task]:
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(len(x)) % 10))
    return leanly.capture(model, example=x[:2]), task


@pytest.mark.parametrize(("runtime", "symmetric"), [("onnxruntime", False), ("openvino", False), ("openvino", True)])
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_rows_beyond_the_range_give_what_the_graph_gives(runtime, symmetric, bits, tmp_path: Path) -> None:
    quantized = Static(activations=bits, symmetric=symmetric, kernels=runtime)(*convolutions())
    predictor = open_artifact(leanly.lower(quantized, runtime=runtime, to=tmp_path / "a"))
    for rows in (1, 3, 8):
        far = 20 * torch.randn(rows, 3, 8, 8)
        wanted = quantized(far).detach().numpy()
        found = predictor(far.numpy())
        # a value half-way between two steps may fall to either side; 7 dB is what comes of eight bits' ends
        assert sqnr(wanted, found) > 12
    heavy = [kernel for kernel in predictor.kernels() if MULTIPLIES.search(kernel.operator)]
    assert len(heavy) == 3 and {kernel.precision for kernel in heavy} == {"int8"}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_biases_are_not_rounded_to_the_coarse_steps_of_few_bits(runtime, bits, tmp_path: Path) -> None:
    whole, task = biased()
    graph, (x, _) = Static(weights=bits, activations=bits, kernels=runtime)(whole, task), task.train
    artifact = leanly.lower(graph, runtime=runtime, to=tmp_path / "a")
    wanted, found = graph(x).detach().numpy(), open_artifact(artifact)(x.numpy())
    assert sqnr(wanted, found) > 37, "28 dB at three bits where the bias takes the step of the products"
    assert (wanted.argmax(1) != found.argmax(1)).sum() < 8
    assert set(artifact.code_bits.values()) == ({bits} if bits < 8 else set())

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


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 10)
    ).eval()


@pytest.mark.parametrize(("runtime", "symmetric"), [("onnxruntime", False), ("openvino", False), ("openvino", True)])
@pytest.mark.parametrize("bits", [2, 4, 6])
def test_rows_beyond_the_range_give_what_the_graph_gives(runtime, symmetric, bits, tmp_path: Path) -> None:
    model, x = network(), torch.randn(64, 3, 8, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 10))
    static = Static(activations=bits, symmetric=symmetric, kernels=runtime)
    quantized = static(leanly.capture(model, example=x[:2]), task)
    predictor = open_artifact(leanly.lower(quantized, runtime=runtime, to=tmp_path / "a"))
    for rows in (1, 3, 8):
        far = 20 * torch.randn(rows, 3, 8, 8)
        wanted = quantized(far).detach().numpy()
        found = predictor(far.numpy())
        # a value half-way between two steps may fall to either side; 7 dB is what comes of eight bits' ends
        assert sqnr(wanted, found) > 12
    heavy = [kernel for kernel in predictor.kernels() if MULTIPLIES.search(kernel.operator)]
    assert len(heavy) == 3 and {kernel.precision for kernel in heavy} == {"int8"}

"""Integer artifacts of what runtimes get wrong when it is written in the plain way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.lowering.proof import sqnr
from leanly.quantize import Smooth, Static
from leanly.recipe import Recipe
from leanly.runtimes import open_artifact

RUNTIMES = ("onnxruntime", "openvino")


def quality(model: nn.Module, x: torch.Tensor, runtime: str, folder, before=()) -> float:
    """Return how much louder the graph's outputs are than what its artifact misses of them, in decibels."""
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(len(x))), metric="mse")
    graph = Recipe((*before, Static(kernels=runtime)))(leanly.capture(model, example=x[:2]), task)
    predictor = open_artifact(leanly.lower(graph, runtime=runtime, to=folder / "a"), threads=1)
    with torch.no_grad():
        return sqnr(graph(x).numpy(), predictor.run([x.numpy()])[0])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("gamma", "bias"), [(1e-4, 1.0), (1e-6, 0.1), (0.0, 0.5), (1e-5, 0.37), (1e-5, 0.9)])
def test_a_channel_that_is_nothing_beside_its_bias(gamma, bias, runtime, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()
    with torch.no_grad():
        model[3].weight[1], model[3].bias[1] = gamma, bias
    assert quality(model, torch.randn(32, 3, 8, 8), runtime, tmp_path) > 35


def test_what_moves_integers_between_kernels_is_listed_as_integer(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)).eval()
    x = torch.randn(32, 1, 8, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(32) % 5))
    quantized = Static(kernels="onnxruntime")(leanly.capture(model, example=x[:2]), task)
    artifact = leanly.lower(quantized, runtime="onnxruntime", to=tmp_path / "a")
    found = {kernel.operator: kernel.precision for kernel in artifact.kernels()}
    between = {name for name in found if "MaxPool" in name or name in ("Transpose", "Reshape")}
    assert between and {found[name] for name in between} == {"int8"}, found


class Pooled(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.head, self.scale = kind, nn.Linear(32, 8), nn.Parameter(torch.rand(32) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = {"mean": x.mean(1), "sum": x.sum(1), "amax": x.amax(1), "amin": x.amin(1)}[self.kind]
        return self.head(pooled * self.scale)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", ["mean", "sum", "amax", "amin"])
def test_channels_scaled_behind_a_reduction(kind, runtime, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(64, 6, 32)
    assert quality(Pooled(kind).eval(), x, runtime, tmp_path) > 35
    assert quality(nn.Sequential(Pooled(kind), nn.ReLU()).eval(), x, runtime, tmp_path / "smooth", (Smooth(),)) > 35

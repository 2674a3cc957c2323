"""Names of values that torch's modules have for themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import SettingError
from leanly.quantize import Static, WeightsOnly


class Casting(nn.Module):
    """Its input is called as a method of every module, and so is the value behind the cast."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, half: torch.Tensor) -> torch.Tensor:
        return self.conv(half.float()).mean((2, 3))


class Taken(nn.Module):
    """A submodule of the user's is called as the one that holds quantizers."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizers, self.head = nn.BatchNorm1d(33), nn.Linear(33, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.quantizers(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_values_may_be_called_as_methods_of_modules(dtype, tmp_path):
    torch.manual_seed(0)
    x, model = torch.randn(64, 3, 12, 12).to(dtype), Casting().eval()
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 4))
    quantized = Static()(leanly.capture(model, example=x[:2]), task)
    with torch.no_grad():
        lost = (quantized(x) - model(x)).abs().max() / model(x).abs().max()
    assert 0 < lost < 0.05
    quantized.save(tmp_path / "graph")
    assert torch.equal(leanly.Graph.open(tmp_path / "graph")(x), quantized(x))


def test_a_module_called_quantizers_is_none():
    graph = leanly.capture(Taken().eval(), example=torch.randn(2, 33))
    with pytest.raises(SettingError, match="no layer can be quantized in groups of 32"):
        WeightsOnly()(graph)

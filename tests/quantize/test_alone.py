"""One layer quantized alone: what its bits change in the outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.families.sensitivity import only_quantized
from leanly.quantize import Static
from leanly.quantize.alone import sensitivities
from tests.quantize.networks import inputs_of, residual


def test_it_is_the_change_of_the_outputs_where_no_other_layer_is_quantized() -> None:
    graph, task = residual()
    quantized = Static(weights=4, kernels="onnxruntime")(graph, task)
    x = inputs_of(task)[:8]
    found = sensitivities(quantized, [[x[:5]], [x[5:]]], (4, 8), "channel")
    assert list(found) == ["conv2d", "conv2d_1", "conv2d_2", "linear"]
    with torch.no_grad():
        wanted = only_quantized(quantized, "").flat(x)[0]
        for name, layer in found.items():
            lost = (only_quantized(quantized, name).flat(x)[0] - wanted).square().sum()
            assert layer.errors[4] == pytest.approx(float(lost), rel=1e-3) and layer.errors[8] < layer.errors[4]
            assert not layer.shared
    assert found["linear"].weights == 40


def test_layers_that_share_a_weight_are_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(torch.relu(self.layer(x))))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(32, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(32) % 3))
    quantized = Static()(leanly.capture(model, example=x[:2]), task)
    found = sensitivities(quantized, [[x]], (8,), "channel")
    assert {name: layer.shared for name, layer in found.items()} == {"linear": True, "linear_2": False}

"""Weights that are computed from parameters alone are stored; others stay as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import leanly
from leanly.graph.computed import store_weights
from leanly.graph.layers import LAYERS
from leanly.graph.nodes import argument, reads_tensor
from leanly.quantize import Equalize, Static, WeightsOnly
from leanly.recipe import Recipe
from tests.once import once


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


class Shared(nn.Module):
    """One computed weight that two layers read, one that depends on the input, and one that is drawn anew."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.randn(2, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.a @ self.b
        x = nn.functional.linear(nn.functional.linear(x, weight), weight)
        x = nn.functional.linear(x, weight * x.mean())
        return nn.functional.linear(x, self.a.T + torch.rand(2, 8))


def computed(graph: leanly.Graph) -> int:
    layers = [node for node in graph.module.graph.nodes if node.target in LAYERS]
    return sum(not reads_tensor(argument(layer, "weight")) for layer in layers)


@once
def normed(norm) -> nn.Module:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), norm(nn.Linear(8 * 36, 32)), nn.ReLU())
    return nn.Sequential(norm(layers[0]), *layers[1:], nn.Linear(32, 5)).eval()


@once
def captured(norm) -> leanly.Graph:
    return leanly.capture(normed(norm), example=torch.randn(2, 3, 8, 8))


NORMS = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_the_network_computes_the_same_and_holds_one_tensor_a_weight(norm) -> None:
    x = torch.randn(5, 3, 8, 8)
    graph = captured(norm)
    stored = store_weights(graph)
    assert computed(graph) == 2 and computed(stored) == 0
    torch.testing.assert_close(stored(x), graph(x))
    assert sum(p.numel() for p in stored.parameters()) <= sum(p.numel() for p in graph.parameters())
    assert computed(graph) == 2, "the graph given is as it was"


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_such_layers_run_in_integers(norm, runtime: str, tmp_path: Path) -> None:
    model, x = normed(norm), torch.randn(32, 3, 8, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(32) % 5))
    graph = Recipe((Equalize(), Static(kernels=runtime)))(captured(norm), task)
    assert not [note for note in graph.notes if note.startswith("quantize.Static")]
    artifact = leanly.lower(graph, runtime=runtime, to=tmp_path / "a")
    layers = [kernel for kernel in artifact.kernels() if kernel.name and "conv2d" in kernel.name]
    assert {kernel.precision for kernel in layers} == {"int8"}
    float_bytes = 4 * sum(p.numel() for p in captured(norm).parameters())
    assert artifact.stored_bytes < 0.3 * float_bytes


def test_packed_weights_may_be_computed() -> None:
    graph = WeightsOnly(group=32)(captured(NORMS["weight norm"]))
    assert sum(node.target is torch.ops.leanly.fake_quantize.default for node in graph.module.graph.nodes) == 2


def test_a_shared_weight_is_stored_once_and_what_is_no_constant_stays() -> None:
    torch.manual_seed(0)
    graph = leanly.capture(Shared().eval(), example=torch.randn(2, 8))
    assert computed(graph) == 4
    stored = store_weights(graph)
    assert computed(stored) == 2
    names = {str(node.target) for node in stored.module.graph.nodes if node.op == "get_attr"}
    assert len([name for name in names if name.startswith("stored_weights.")]) == 1
    for seed in range(2):
        outputs = []
        for one in (graph, stored):
            torch.manual_seed(seed)
            outputs.append(one(torch.ones(2, 8)))
        torch.testing.assert_close(*outputs)

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.quantize import Smooth, Static
from leanly.recipe import Recipe
from leanly.task import Task
from tests.once import once

WIDTH, HOT = 16, 3
aten = torch.ops.aten


class Residual(nn.Module):
    """The norm's output goes on beside the layers, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.one, self.two = nn.Linear(WIDTH, 32), nn.Linear(WIDTH, 32)
        self.out = nn.Linear(32, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return y + self.out(torch.tanh(self.one(y)) * self.two(y))


class Before(Residual):
    """The norm serves the layers only, as where it comes first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return x + self.out(torch.tanh(self.one(y)) * self.two(y))


class Tied(Residual):
    """One weight is read twice, at two values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return self.out(torch.tanh(self.one(y)) * self.one(torch.relu(y)) + self.two(y))


@once
def made(kind: type[nn.Module]) -> tuple[Task, Graph]:
    model = kind().eval()
    with torch.no_grad():
        # one channel is a hundred times larger than the others
        model.norm.weight[HOT] = 100.0  # type: ignore[union-attr, index]
    x = torch.randn(120, 5, WIDTH)
    task = Task(model, example=x[:2], train=(x, torch.zeros(120, 5, WIDTH)), metric="mse", loss="mse")
    return task, leanly.capture(model, example=x[:2]).eval()


def differ(one: Graph, other: Graph, rows: int) -> float:
    x = torch.randn(rows, 5, WIDTH, generator=torch.Generator().manual_seed(rows))
    with torch.no_grad():
        expected, found = one.flat(x)[0], other.flat(x)[0]
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", [Residual, Before, Tied])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_the_outputs_stay_the_same(kind: type[nn.Module], alpha: float) -> None:
    task, graph = made(kind)
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    smooth = Smooth(alpha)(graph, task)
    for rows in (1, 3, 8):
        assert differ(graph, smooth, rows) < 1e-5
    assert all(torch.equal(tensor, graph.state_dict()[name]) for name, tensor in before.items()), "its input is kept"


def test_the_norm_takes_the_division_over_where_it_serves_nothing_else() -> None:
    def divisions(kind: type[nn.Module]) -> int:
        task, graph = made(kind)
        return sum(str(node.target).startswith("smoothing.") for node in Smooth()(graph, task).module.graph.nodes)

    assert divisions(Residual) == 2, "before the two that read the norm, and before the last"
    assert divisions(Before) == 1


def test_a_weight_that_is_read_twice_stays_as_it_is() -> None:
    task, graph = made(Tied)
    smooth = Smooth()(graph, task)
    assert torch.equal(smooth.state_dict()["one.weight"], graph.state_dict()["one.weight"])
    assert not torch.equal(smooth.state_dict()["out.weight"], graph.state_dict()["out.weight"])


@pytest.mark.parametrize("kind", [Residual, Before])
def test_integers_lose_less(kind: type[nn.Module]) -> None:
    task, graph = made(kind)
    static = Static(observer="minmax", kernels="onnxruntime")
    plain = static(graph, task)
    smooth = Recipe((Smooth(), static))(graph, task)
    assert differ(graph, smooth, 64) < 0.5 * differ(graph, plain, 64)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_is_lowered(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    task, graph = made(Residual)
    quantized = Recipe((Smooth(), Static(observer="minmax", kernels=runtime)))(graph, task)
    artifact = leanly.lower(quantized, runtime=runtime, to=tmp_path / "artifact")
    assert any(kernel.precision == "int8" for kernel in artifact.kernels())


def test_a_network_without_linear_layers_comes_back() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    x = torch.randn(2, 3, 8, 8)
    graph = Smooth()(leanly.capture(model, example=x))
    assert not any(node.target is aten.mul.Tensor for node in graph.module.graph.nodes)
    assert graph.notes == ("quantize.Smooth: nothing to smooth: no linear layer has a weight that nothing else reads",)


def test_it_is_read_back_from_a_recipe() -> None:
    recipe = Recipe((Smooth(alpha=0.7), Static()))
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("settings", [{"alpha": -0.1}, {"alpha": 1.5}, {"alpha": True}, {"samples": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        Smooth(**settings)  # type: ignore[arg-type]

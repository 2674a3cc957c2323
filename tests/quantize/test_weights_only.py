"""WeightsOnly: groups with scales of their own, what is left in float said, and files that hold few bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import leanly
from leanly.artifact import Artifact
from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.graph.quantizer import of_weight
from leanly.quantize import GPTQ, Binary, WeightsOnly
from leanly.quantize.quantizers import read_affine
from leanly.recipe import Recipe
from leanly.runtimes import open_artifact
from leanly.task import Task
from tests.once import once
from tests.quantize.networks import off_grid

WORDS, WIDTH = 50, 64


class Reader(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, width)
        self.one, self.two = nn.Linear(width, 128), nn.Linear(128, width, bias=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        x = self.norm(x + self.two(torch.relu(self.one(x))))
        return self.head(x.mean(1))


class Tied(nn.Module):
    """The table is the head's weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.one = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.one(self.table(ids)) @ self.table.weight.T


@once
def reader(width: int = WIDTH) -> tuple[Graph, Task]:
    model, ids = Reader(width).eval(), torch.randint(0, WORDS, (64, 7))
    return leanly.capture(model, example=(ids[:2],)), Task(model, example=(ids[:2],), train=(ids, torch.zeros(64)))


def ids_of(graph: Graph) -> torch.Tensor:
    return torch.randint(0, WORDS, (32, 7), generator=torch.Generator().manual_seed(3))


def lost(graph: Graph, other: Graph) -> float:
    x = ids_of(graph)
    with torch.no_grad():
        return float((graph(x) - other(x)).square().mean())


def moved(graph: Graph, other: Graph) -> float:
    """Return the squared error of all weights."""
    total = 0.0
    for node in other.module.graph.nodes:
        if of_weight(node):
            name = str(node.args[0].target)
            affine = read_affine(other.module, node)
            weight = graph.module.get_parameter(name).detach()
            total += float((affine.dequantize(affine.quantize(weight)) - weight).square().sum())
    return total


def test_smaller_groups_and_better_ranges_lose_less() -> None:
    graph, _ = reader()
    errors = {
        (group, chosen): moved(graph, WeightsOnly(group=group, range=chosen, embeddings=False)(graph))
        for group in (16, 64)
        for chosen in ("mse", "minmax")
    }
    assert errors[16, "mse"] < errors[64, "mse"] < errors[64, "minmax"]
    assert moved(graph, WeightsOnly(bits=8, embeddings=False)(graph)) < 0.02 * errors[16, "mse"]


def test_gptq_behind_it_loses_less_than_the_nearest() -> None:
    graph, task = reader()
    nearest = WeightsOnly(group=64, embeddings=False)(graph)
    rounded = GPTQ(samples=64)(nearest, task)
    assert off_grid(rounded) < 1e-3
    assert lost(graph, rounded) < lost(graph, nearest)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return leanly.lower(reader()[0], runtime=request.param, to=tmp_path_factory.mktemp("whole") / "whole")


@pytest.mark.parametrize(("bits", "symmetric", "table"), [(4, True, 8), (4, False, 4), (4, True, 4), (8, False, 8)])
def test_the_file_holds_few_bits_and_does_what_the_graph_does(
    whole: Artifact, bits: int, symmetric: bool, table: int, tmp_path: Path
) -> None:
    graph, _ = reader()
    few = WeightsOnly(bits=bits, symmetric=symmetric, embedding_bits=table)(graph)
    artifact = leanly.lower(few, runtime=whole.runtime, to=tmp_path / "few")
    assert artifact.precision == "float32", "the products are float"
    stored = {name: width for name, (width, _) in artifact.storage_bits.items()}
    assert stored["one.weight_int"] == bits and stored["table.weight_int"] == table
    assert stored["one.weight_step"] == stored["table.weight_step"] == 16
    weights = sum(p.numel() for p in graph.parameters() if p.ndim > 1)
    assert whole.bytes - artifact.bytes > weights * (4 - bits / 8 - 0.75)
    x = ids_of(graph)
    from leanly.runtimes import open_artifact

    np.testing.assert_allclose(open_artifact(artifact)(x.numpy()), few(x).detach().numpy(), atol=1e-3, rtol=1e-3)


def test_products_may_be_integers_where_asked(tmp_path: Path) -> None:
    graph, _ = reader()
    artifact = leanly.lower(WeightsOnly()(graph), runtime="onnxruntime", to=tmp_path / "a", precision="int8")
    assert any(kernel.operator == "MatMulNBits" and kernel.precision == "int8" for kernel in artifact.kernels())


def test_what_is_left_in_float_is_said() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, WORDS, (4, 7))
    tied = WeightsOnly()(leanly.capture(Tied().eval(), example=(ids,)))
    assert any("table.weight (read by other operators too)" in note for note in tied.notes)
    narrow, _ = reader(24)
    some = WeightsOnly(group=32)(narrow)
    assert any("one.weight (24 wide)" in note and "two.weight" not in note for note in some.notes)
    with pytest.raises(SettingError, match=r"groups of 256.*two.weight.*use group=64"):
        WeightsOnly(group=256, embeddings=False)(reader()[0])
    odd = leanly.capture(nn.Linear(9, 4).eval(), example=torch.zeros(2, 9))
    with pytest.raises(SettingError, match=r"weight \(9 wide\).*use quantize.Static"):
        WeightsOnly(group=16)(odd)


def test_a_table_takes_four_bits_where_groups_fit() -> None:
    def steps(group: int) -> torch.Tensor:
        few = WeightsOnly(group=group, embedding_bits=4)(reader(96)[0])
        return dict(few.module.named_buffers())["quantizers.table_weight.scale"]

    assert steps(32).shape == (WORDS, 3)
    assert steps(64).shape == (WORDS,), "96 columns are no groups of 64: eight bits, a scale a row"


def test_steps_too_small_for_float16_stay_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(64, 32).eval(), torch.randn(4, 64)
    with torch.no_grad():
        model.weight[3] *= 1e-7
    few = WeightsOnly()(leanly.capture(model, example=(x,)))
    artifact = leanly.lower(few, runtime="onnxruntime", to=tmp_path / "few")
    assert artifact.storage_bits["weight_step"] == (32, 64)
    affine = read_affine(few.module, next(node for node in few.module.graph.nodes if of_weight(node)))
    weight = model.weight.detach()
    lost = affine.dequantize(affine.quantize(weight)) - weight
    assert float(lost[3].norm() / weight[3].norm()) < 0.1


def test_named_nodes_stay_float_and_the_recipe_is_data() -> None:
    graph, _ = reader()
    left = WeightsOnly(float_nodes=("linear",))(graph)
    assert not any(name.startswith("quantizers.one") for name, _ in left.module.named_buffers())
    with pytest.raises(SettingError, match=r"float_nodes names 'linaer', which is no node.*'linear'"):
        WeightsOnly(float_nodes=("linaer",))(graph)
    recipe = Recipe((WeightsOnly(bits=8, group=64),))
    assert Recipe.from_json(recipe.to_json()).passes == recipe.passes


def test_a_network_of_signs_is_refused() -> None:
    model, x = (
        nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)),
        torch.randn(64, 32),
    )
    task = Task(model.eval(), example=x[:2], train=(x, torch.arange(64) % 8))
    signs = Binary(shortcuts=False)(leanly.capture(model, example=x[:2]), task)
    with pytest.raises(SettingError, match=r"multiplies signs.*quantize\.Static"):
        WeightsOnly()(signs)


@pytest.mark.parametrize("settings", [{"bits": 3}, {"group": 24}, {"range": "kl"}])
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        WeightsOnly(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_symmetric_codes_need_no_zero_points(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval(), torch.randn(8, 64)
    graph = leanly.capture(model, example=x[:2])
    sizes = {}
    for symmetric in (False, True):
        few = WeightsOnly(symmetric=symmetric)(graph)
        artifact = leanly.lower(few, runtime=runtime, to=tmp_path / "a")
        assert torch.allclose(open_artifact(artifact)(x), few(x), atol=2e-3)
        sizes[symmetric] = artifact.stored_bytes
    assert sizes[False] - sizes[True] == (64 + 10) * 2 / 2, "two groups a row, half a byte each"

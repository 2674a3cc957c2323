"""An integer artifact is its graph to within a step of every integer, at three batch sizes; a moved weight is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import leanly
from leanly.errors import LoweringError
from leanly.lowering import onnx as writing
from leanly.lowering import parity
from leanly.lowering.parity import check_steps
from leanly.quantize import Binary, Static
from tests.lowering.test_artifacts import Residual, task_for
from tests.once import once
from tests.quantize.test_binary import blocks

BATCHES = (1, 3, 8)


class Attention(nn.Module):
    """One layer of a transformer: products between activations, normalization, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(16, 48)
        self.write = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.read(x).reshape(batch, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        x = self.norm(x + self.write(mixed))
        return (x + self.down(nn.functional.gelu(self.up(x)))).mean(1)[:, :5]


@once
def captured() -> tuple[leanly.Graph, leanly.Task]:
    model, x = Residual().eval(), torch.randn(64, 3, 8, 8)
    return leanly.capture(model, example=(x[:8],)), task_for(model, x)


@once
def residual(**settings: int | str) -> leanly.Graph:
    return Static(**settings)(*captured())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quantized network, lowered."""
    return leanly.lower(residual(), to=tmp_path_factory.mktemp("written") / "a").folder


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_integer_is_one_step_off_at_most(runtime: str, bits: int, tmp_path: Path) -> None:
    graph = residual(weights=bits, activations=bits, kernels=runtime)
    check_steps(leanly.lower(graph, runtime=runtime, to=tmp_path / "a"), graph, BATCHES)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["artifact.json", "model.onnx"]


def test_batches_that_would_take_too_much_memory_are_left_out(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, seen, whole = residual(), [], leanly.Graph.example_batch
    artifact = leanly.Artifact.open(written)

    def example_batch(self: leanly.Graph, size: int) -> tuple[torch.Tensor, ...]:
        seen.append(size)
        return whole(self, size)

    monkeypatch.setattr(leanly.Graph, "example_batch", example_batch)
    for largest, batches in ((2**30, [1, 3, 8]), (100_000, [1, 3]), (0, [1])):
        monkeypatch.setattr(parity, "LARGEST", largest)
        seen.clear()
        check_steps(artifact, graph, BATCHES)
        assert seen[1:] == batches, "the first row is for the shapes"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_products_of_activations_too(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(64, 6, 16)
    graph = Static(kernels=runtime)(leanly.capture(model, example=(x[:8],)), task_for(model, x))
    check_steps(leanly.lower(graph, runtime=runtime, to=tmp_path / "a"), graph, BATCHES)


def test_signs_differ_next_to_their_threshold_alone(tmp_path: Path) -> None:
    graph, task = blocks()
    graph = Binary(activations=1)(graph, task).eval()
    check_steps(leanly.lower(graph, runtime="openvino", to=tmp_path / "a"), graph, BATCHES)


@pytest.mark.parametrize(
    ("layer", "told"),
    [("first", "self.first"), ("second", "self.second"), ("depthwise", "self.depthwise"), ("head", "output output")],
)
def test_weights_moved_by_one_code_are_seen(
    layer: str, told: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = residual()
    rng = np.random.default_rng(0)

    def moved(graph: leanly.Graph, path: Path, **settings: object) -> tuple[str, ...]:
        model = onnx.load(str(written / "model.onnx"))
        (tensor,) = (one for one in model.graph.initializer if one.name == f"{layer}.weight_int")
        codes = onnx.numpy_helper.to_array(tensor).astype(int)
        codes = np.clip(codes + rng.choice([-1, 1], codes.shape), -127, 127).astype(np.int8)
        tensor.CopyFrom(onnx.numpy_helper.from_array(codes, tensor.name))
        onnx.save(model, str(path))
        return (path.name,)

    monkeypatch.setattr(writing, "export", moved)
    with pytest.raises(LoweringError, match=r"steps at batch 1, .*" + told):
        leanly.lower(graph, to=tmp_path / "a")
    assert not (tmp_path / "a").exists()

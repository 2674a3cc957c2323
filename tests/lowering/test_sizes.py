"""A file holds the tensors that its storage bits tell of, to the byte, however small the network is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import leanly
import leanly.lowering.onnx
from leanly.errors import LoweringError
from leanly.lowering.sizes import check_sizes
from leanly.quantize import Static, WeightsOnly
from tests.quantize.networks import perceptron, residual


def test_a_weight_that_is_stored_in_float_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = leanly.lowering.onnx.export

    def decode_one(graph: leanly.Graph, path: Path, **settings: bool) -> tuple[str, ...]:
        """Do to one weight what an exporter does that computes constants beforehand."""
        files = export(graph, path, **settings)
        model = onnx.load(str(path))
        held = {tensor.name: tensor for tensor in model.graph.initializer}
        (node,) = (node for node in model.graph.node if node.input[0] == "one.weight_int")
        integers, step, zero = (numpy_helper.to_array(held[name]).astype(np.float32) for name in node.input)
        values = (integers - zero[:, None, None, None]) * step[:, None, None, None]
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        model.graph.initializer.remove(held["one.weight_int"])
        model.graph.node.remove(node)
        onnx.save(model, str(path))
        return files

    graph, task = residual()
    quantized = Static()(graph, task)
    monkeypatch.setattr("leanly.lowering.onnx.export", decode_one)
    with pytest.raises(
        LoweringError, match=r"one\.weight_int should take 8 bits a value and lies in the file in float"
    ):
        leanly.lower(quantized, to=tmp_path / "a")


class Again(nn.Module):
    """One layer that multiplies three times, as ALBERT's do, and another one with the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.twin = nn.Linear(64, 64), nn.Linear(64, 64)
        self.twin.load_state_dict(self.layer.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.layer, self.twin, self.layer, self.layer):
            x = layer(x).relu()
        return x.mean(1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("integer", [False, True])
def test_a_weight_that_is_read_several_times_is_stored_once(runtime: str, integer: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 5, 64)
    task = leanly.Task(Again().eval(), example=x[:2], train=(x, None))
    graph = leanly.capture(task.model, example=x[:2])
    artifact = leanly.lower(Static()(graph, task) if integer else graph, runtime=runtime, to=tmp_path / "a")
    matrices = [tensor for tensor in onnx.load(str(artifact.model)).graph.initializer if tuple(tensor.dims) == (64, 64)]
    assert len(matrices) == (2 if integer else 1)


@pytest.mark.parametrize("step", [None, Static(), WeightsOnly(group=16)], ids=["float", "static", "packed"])
def test_one_tensor_more_is_refused(step, tmp_path: Path) -> None:
    graph, task = perceptron()
    graph = graph if step is None else step(graph, task)
    artifact = leanly.lower(graph, to=tmp_path / "a")
    model = onnx.load(str(artifact.model))
    weight = dict(graph.named_parameters())["one.weight"]
    model.graph.initializer.append(numpy_helper.from_array(weight.detach().numpy(), "again"))
    onnx.save(model, str(artifact.model))
    with pytest.raises(LoweringError, match=r"the tensors in the files take [\d,]+ bytes, their storage bits|in float"):
        check_sizes(artifact, graph)


def test_what_is_no_tensor_is_bounded(tmp_path: Path) -> None:
    graph, _ = perceptron()
    artifact = leanly.lower(graph, to=tmp_path / "a")
    model = onnx.load(str(artifact.model))
    model.doc_string = "x" * 20_000
    onnx.save(model, str(artifact.model))
    with pytest.raises(LoweringError, match="bytes that are no tensors"):
        check_sizes(artifact, graph)


def test_torch_holds_the_weights_and_nothing_beside(tmp_path: Path) -> None:
    graph, _ = perceptron()
    artifact = leanly.lower(graph, runtime="torch", to=tmp_path / "a", eager=True)
    check_sizes(artifact, graph)
    halved = {name: (bits // 2, count) for name, (bits, count) in artifact.storage_bits.items()}
    with pytest.raises(LoweringError, match="the tensors in the files take 2,136 bytes, their storage bits 1,068"):
        check_sizes(replace(artifact, storage_bits=halved), graph)


class Positions(nn.Module):
    """Adds a table that depends on no input: an exporter computes it beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = torch.sin(torch.arange(64)[:, None] * torch.exp(torch.arange(32)[None] * -0.3))
        return self.head(torch.relu(x + table)).mean(1)


@pytest.mark.parametrize("quantized", [False, True])
def test_what_is_computed_beforehand_may_lie_there(quantized: bool, tmp_path: Path) -> None:
    model, x = Positions().eval(), torch.randn(16, 64, 32)
    graph = leanly.capture(model, example=x[:2])
    if quantized:
        graph = Static()(graph, leanly.Task(model, example=x[:2], train=(x, torch.arange(16) % 5)))
    artifact = leanly.lower(graph, to=tmp_path / "a")
    assert artifact.bytes > artifact.stored_bytes + 8_000


class Heads(nn.Module):
    """A table, and a layer of one group whose zero points fill half of their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.wide, self.head = nn.Embedding(300, 32), nn.Linear(32, 1500), nn.Linear(1500, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.wide(self.table(ids)))).mean(1)


def test_zero_points_of_packed_weights_are_counted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = WeightsOnly(embedding_bits=4)(leanly.capture(Heads().eval(), example=torch.randint(0, 300, (2, 7))))
    artifact = leanly.lower(graph, to=tmp_path / "a")
    held = sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(str(artifact.model)).graph.initializer)
    assert 0 <= held - artifact.stored_bytes < 300, "the ends of ranges, and nothing else"

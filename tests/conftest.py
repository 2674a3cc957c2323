"""What several areas' tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# Set before any library reads it: the tests share a machine with others, and none of them is about speed.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from leanly.artifact import Artifact
from leanly.structure import TensorSpec

hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")

ArtifactMaker = Callable[..., Artifact]


@pytest.fixture(autouse=True)
def alike() -> None:
    """Let no earlier test decide what one draws, nor on how many threads it runs: they would wait for each other."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
        torch.manual_seed(0)


@pytest.fixture
def make_artifact(tmp_path: Path) -> ArtifactMaker:
    """Return a function that makes an ONNX Runtime artifact of `y = x * factor`, without torch."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def make(name: str = "artifact", factor: float = 2.0) -> Artifact:
        helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            [helper.make_node("Mul", ["x", "factor"], ["y"], "scale")],
            "tiny",
            [helper.make_tensor_value_info("x", float32, ["batch", 3])],
            [helper.make_tensor_value_info("y", float32, ["batch", 3])],
            [helper.make_tensor("factor", float32, [1], [factor])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        folder = tmp_path / name
        folder.mkdir(parents=True)
        onnx.save(model, str(folder / "model.onnx"))
        artifact = Artifact(
            folder=folder,
            runtime="onnxruntime",
            precision="float32",
            files=("model.onnx",),
            inputs=(TensorSpec("x", "float32", ("batch", 3)),),
            outputs=(TensorSpec("y", "float32", ("batch", 3)),),
            arguments={"tuple": [{"tuple": [0]}, {"dict": {}}]},
            returns=0,
        )
        artifact.save()
        return artifact

    return make


@pytest.fixture
def make_bundle(make_artifact: ArtifactMaker, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a bundle with an artifact for batch 1 (doubles) and one for batch 16 (triples)."""
    from leanly import bundle

    def make(name: str = "model.leanly", key: bytes | None = None) -> Path:
        raw = tmp_path / f"{name}-raw"
        (raw / "latency").mkdir(parents=True)
        (raw / "latency" / "1.json").write_text("[0.001, 0.002]\n")
        graph = tmp_path / f"{name}-graph"
        graph.mkdir()
        (graph / "weights.bin").write_bytes(bytes(range(64)))
        return bundle.save(
            tmp_path / name,
            artifacts={1: make_artifact(f"{name}-1", 2.0), 16: make_artifact(f"{name}-16", 3.0)},
            document={"best": 4, "verdict": "pass"},
            graph=graph,
            measurements=raw,
            key=key,
        )

    return make

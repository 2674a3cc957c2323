"""A bundle's payload: coded at rest, the runtime's very file when opened."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import leanly
from leanly.artifact import Artifact
from leanly.bundle import payload
from leanly.bundle.payload import SUFFIX
from leanly.errors import BundleError
from leanly.lowering import packing
from leanly.prune import Sparse
from leanly.quantize import Cluster, Static
from leanly.recipe import Recipe


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Artifact]:
    torch.manual_seed(0)
    x = torch.randn(32, 3, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 100)
    )
    task = leanly.Task(model.eval(), example=x[:2], train=(x, torch.arange(32) % 10))
    graph = leanly.capture(model, example=x[:2])
    target = leanly.Target("cpu")
    folder = tmp_path_factory.mktemp("lowered")
    return {
        bits: leanly.lower(
            Static(weights=bits)(graph, task, target), runtime="onnxruntime", to=folder / str(bits), precision="int8"
        )
        for bits in (4, 6)
    }


def test_a_bundle_holds_low_bits_coded_and_opens_to_the_same_numbers(lowered, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    sizes = {}
    for bits, artifact in lowered.items():
        assert set(artifact.code_bits.values()) == {bits} and len(artifact.code_bits) == 3
        weights = 3 * 64 * 9 + 64 * 64 * 9 + 1024 * 100
        root = leanly.bundle.save(tmp_path / f"{bits}.leanly", artifacts={1: artifact}, document={})
        sizes[bits] = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        small = next(root.rglob(f"*{SUFFIX}")).stat().st_size
        assert artifact.bytes - small > 0.95 * weights * (8 - bits) / 8
        assert artifact.bytes - small == packing.tensor_bytes(artifact.model.read_bytes()) - artifact.payload_bytes
        with leanly.bundle.verify(root).path.joinpath("artifacts/batch-1/artifact.json").open() as file:
            assert "model.onnx" in file.read()
        found = leanly.load(root)
        assert found.artifact.decode_seconds > 0 < artifact.decode_seconds
        wanted = leanly.runtimes.open_artifact(artifact).run([x])[0]
        np.testing.assert_array_equal(found(x), wanted)
        assert (found.artifact.folder / "model.onnx").read_bytes() == artifact.model.read_bytes()
    assert sizes[4] < sizes[6]


def test_a_payload_counts_all_that_the_weights_need(lowered, tmp_path: Path) -> None:
    """Few weights of few bits, many channels: scales, zero points and biases are most of what is left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(192, 300), nn.ReLU(), nn.Linear(300, 4)).eval()
    x = torch.randn(64, 192)
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(64, dtype=torch.long)))
    few = Recipe((Sparse(sparsity=0.95), Cluster(count=4), Static(samples=64)))
    artifact = leanly.lower(few(leanly.capture(model, example=x[:2]), task), runtime="onnxruntime", to=tmp_path / "a")
    root = leanly.bundle.save(tmp_path / "m.leanly", artifacts={1: artifact}, document={})
    content = artifact.model.read_bytes()
    around = len(content) - packing.tensor_bytes(content)
    assert artifact.payload_bytes == next(root.rglob(f"*{SUFFIX}")).stat().st_size - around
    assert artifact.payload_bytes > 4 * 304 + 304


def test_what_gains_nothing_is_copied(tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = leanly.capture(nn.Linear(40, 40), example=torch.randn(2, 40))
    artifact = leanly.lower(graph, runtime="onnxruntime", to=tmp_path / "a")
    assert artifact.payload_bytes == artifact.stored_bytes == 4 * 41 * 40
    assert artifact.decode_seconds == 0
    root = leanly.bundle.save(tmp_path / "m.leanly", artifacts={1: artifact}, document={})
    assert (root / "artifacts" / "batch-1" / "model.onnx").read_bytes() == artifact.model.read_bytes()


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_zeros_and_shared_values_of_a_float_network_are_coded(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(200, 100)
    with torch.no_grad():
        values = torch.randint(1, 9, (100, 200)) * 0.125
        model.weight.copy_(values.masked_fill(torch.rand(100, 200) > 0.1, 0))
    graph = leanly.capture(model, example=torch.randn(2, 200))
    artifact = leanly.lower(graph, runtime=runtime, to=tmp_path / "a", eager=runtime == "torch")
    entropy = 100 * 200 * (0.469 + 0.1 * 3) / 8
    assert artifact.payload_bytes < 400 + 1.05 * entropy + 130
    root = leanly.bundle.save(tmp_path / "m.leanly", artifacts={1: artifact}, document={})
    assert next(root.rglob(f"*{SUFFIX}")).stat().st_size < 400 + 1.05 * entropy + 1000
    x = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    np.testing.assert_array_equal(leanly.load(root)(x), leanly.runtimes.open_artifact(artifact).run([x])[0])


def test_a_compact_file_that_is_not_what_it_says_is_refused(lowered, tmp_path: Path) -> None:
    artifact = lowered[4]
    payload.copy_coded(artifact, tmp_path)
    moved = replace(artifact, folder=tmp_path)
    assert payload.opened(moved).model.read_bytes() == artifact.model.read_bytes()
    path = tmp_path / f"model.onnx{SUFFIX}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"compact file is damaged.*model.onnx.compact"):
        payload.opened(moved)


def test_it_opens_without_torch_and_leaves_nothing_behind(lowered, tmp_path: Path) -> None:
    root = leanly.bundle.save(tmp_path / "m.leanly", artifacts={1: lowered[4]}, document={})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "import numpy, leanly\n"
        f"print(leanly.load({str(root)!r})(numpy.zeros((2, 3, 8, 8), numpy.float32)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert done.stdout == "(2, 100)\n" and not list(scratch.glob("leanly-*"))

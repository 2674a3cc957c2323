"""One-bit layers lowered: packed eight to a byte, in bytes for integer kernels, and by leanly's own kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import leanly
from leanly.errors import LoweringError, SettingError
from leanly.lowering.proof import sqnr
from leanly.quantize import Binary, Static
from leanly.runtimes import compiling, open_artifact
from tests.quantize.test_binary import blocks

needs_compiler = pytest.mark.skipif(compiling.compiler() is None, reason="no C++ compiler")


def one_bit(activations: int = 1) -> leanly.Graph:
    graph, task = blocks()
    return Binary(activations=activations)(graph, task).eval()


def check(graph: leanly.Graph, artifact: leanly.Artifact) -> None:
    predictor = open_artifact(artifact)
    for rows in (1, 3, 8):
        x = torch.randn(rows, 3, 8, 8)
        # a value at its threshold may fall to either side
        assert sqnr(graph(x).detach().numpy(), predictor(x.numpy())) > 20


def test_signs_run_as_bytes_on_integer_kernels(tmp_path: Path) -> None:
    graph = one_bit()
    artifact = leanly.lower(graph, runtime="openvino", to=tmp_path / "a")
    assert artifact.precision == "int8"
    check(graph, artifact)
    convolutions = [kernel for kernel in artifact.kernels() if kernel.operator == "Convolution"]
    assert [kernel.precision for kernel in convolutions].count("int8") == 2


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_weights_alone_are_decoded_to_float(runtime: str, tmp_path: Path) -> None:
    graph = one_bit(32)
    artifact = leanly.lower(graph, runtime=runtime, to=tmp_path / "a")
    assert artifact.precision == "float32"
    check(graph, artifact)


@pytest.mark.parametrize("activations", [1, 32])
def test_a_bundle_holds_a_bit_a_weight(activations: int, tmp_path: Path) -> None:
    artifact = leanly.lower(one_bit(activations), runtime="openvino", to=tmp_path / "a")
    assert list(artifact.code_bits.values()) == [1, 1]
    saved = artifact.stored_bytes - artifact.payload_bytes
    assert saved == pytest.approx(7 * (8 * 8 * 9 + 12 * 8 * 9) / 8, abs=40)


@needs_compiler
def test_the_kernel_of_signs_gives_what_the_graph_gives(tmp_path: Path) -> None:
    graph = one_bit()
    artifact = leanly.lower(graph, runtime="openvino", precision="binary", to=tmp_path / "a")
    check(graph, leanly.Artifact.open(tmp_path / "a"))
    own = [kernel for kernel in artifact.kernels() if kernel.precision == "binary"]
    assert len(own) == 2
    stored = {name: bits * count for name, (bits, count) in artifact.storage_bits.items() if "packed" in name}
    assert sorted(stored.values()) == [8 * 9 * 8, 12 * 9 * 8]


def test_without_a_compiler_it_says_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling.openvino_extension.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(LoweringError, match="no C\\+\\+ compiler was found"):
        leanly.lower(one_bit(), runtime="openvino", precision="binary", to=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling.openvino_extension.cache_clear()
    broken = tmp_path / "cxx"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1: error: no luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(LoweringError, match="error: no luck"):
        leanly.lower(one_bit(), runtime="openvino", precision="binary", to=tmp_path / "a")
    assert not any((tmp_path / "cache" / "leanly").iterdir())


def test_what_has_no_signs_is_refused(tmp_path: Path) -> None:
    graph, task = blocks()
    quantized = Static()(graph, task)
    with pytest.raises(SettingError, match="no layer of the graph multiplies signs"):
        leanly.lower(quantized, runtime="openvino", precision="binary", to=tmp_path / "a")
    with pytest.raises(SettingError, match="does not run in onnxruntime"):
        leanly.lower(one_bit(), runtime="onnxruntime", precision="binary", to=tmp_path / "b")

"""One-bit layers lowered: packed eight to a byte, in bytes for integer kernels, and by leanly's own kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.artifact import Plan
from leanly.errors import LoweringError, SettingError
from leanly.lowering import signs
from leanly.lowering.packing import tensor_bytes
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
    saved = tensor_bytes(artifact.model.read_bytes()) - artifact.payload_bytes
    assert saved == pytest.approx(7 * (8 * 8 * 9 + 12 * 8 * 9) / 8, abs=80)


class Wide(nn.Module):
    """Layers that the kernel of signs is offered for, of each kind, and one that is too narrow for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.narrow, self.conv = nn.Conv2d(16, 130, 3, padding=1), nn.Conv2d(130, 20, 3, stride=2)
        self.tokens, self.row = nn.Linear(1035, 52), nn.Linear(1040, 12, bias=False)
        self.last = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(torch.relu(self.narrow(torch.relu(self.first(x)))))
        x = self.tokens(x.flatten(2).repeat(1, 1, 115))
        return self.last(torch.relu(self.row(x.flatten(1))))


def wide() -> leanly.Graph:
    torch.manual_seed(0)
    model, x = Wide().eval(), torch.randn(16, 3, 9, 9)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(16) % 5))
    return Binary(shortcuts=False)(leanly.capture(model, example=x[:2]), task).eval()


@pytest.mark.parametrize(("vnni", "layers"), [(False, 3), (True, 1)])
def test_linear_layers_that_vnni_multiplies_faster_are_left_to_it(
    vnni: bool, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leanly.Target, "vnni", property(lambda target: vnni))
    assert len(signs.kernel_layers(wide())) == layers


@needs_compiler
def test_the_kernel_of_signs_gives_what_the_graph_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs, "least_columns", lambda: 512)
    graph = wide()
    artifact = leanly.lower(graph, runtime="openvino", precision="binary", to=tmp_path / "a")
    fixed = artifact.with_plans({rows: Plan(static=True) for rows in (1, 3, 8)})
    for opened in (leanly.Artifact.open(tmp_path / "a"), fixed):
        predictor = open_artifact(opened)
        for rows in (1, 3, 8):
            x = torch.randn(rows, 3, 9, 9)
            assert sqnr(graph(x).detach().numpy(), predictor(x.numpy())) > 20
    own = [kernel for kernel in artifact.kernels() if kernel.precision == "binary"]
    assert len(own) == 3
    stored = {name: bits * count for name, (bits, count) in artifact.storage_bits.items() if "packed" in name}
    taps, row = 20 * 9 * 17 * 8, 130 * 8
    assert sorted(stored.values()) == [12 * row, taps, 52 * row]
    assert list(artifact.code_bits.values()) == [1], "the narrow layer runs as bytes"


def test_without_a_compiler_it_says_what_runs_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling.openvino_extension.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("leanly.lowering.artifacts.store_integers", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(LoweringError, match="no C\\+\\+ compiler was found"):
        leanly.lower(wide(), runtime="openvino", precision="binary", to=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiling.openvino_extension.cache_clear()
    broken = tmp_path / "cxx"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1: error: no luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(LoweringError, match="error: no luck"):
        leanly.lower(wide(), runtime="openvino", precision="binary", to=tmp_path / "a")
    assert not any((tmp_path / "cache" / "leanly").iterdir())


def test_what_has_no_signs_is_refused(tmp_path: Path) -> None:
    graph, task = blocks()
    quantized = Static()(graph, task)
    with pytest.raises(SettingError, match="no layer of the graph multiplies signs"):
        leanly.lower(quantized, runtime="openvino", precision="binary", to=tmp_path / "a")
    with pytest.raises(SettingError, match="convolution of 64 input channels or more"):
        leanly.lower(one_bit(), runtime="openvino", precision="binary", to=tmp_path / "a")
    with pytest.raises(LoweringError, match="onnxruntime has no kernels for products of packed signs"):
        leanly.lower(one_bit(), runtime="onnxruntime", precision="binary", to=tmp_path / "b")

"""Seconds of each node, and whose layer it is."""

from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.artifact import Artifact, Kernel
from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.measurement import profile
from leanly.measurement.attribution import MULTIPLIES, kernel_of, layer_seconds
from leanly.quantize import Static


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    torch.manual_seed(0)
    x = torch.randn(16, 3, 16, 16)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 144, 5)
    )
    task = leanly.Task(model.eval(), example=x[:2], train=(x, torch.arange(16) % 5))
    whole = leanly.capture(model, example=x[:2])
    return {"float32": whole, "int8": Static()(whole, task)}


LAYERS = ("conv2d", "conv2d_1", "linear")


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_layer_is_timed_as_the_runtime_ran_it(graphs, runtime, precision, tmp_path: Path):
    graph = graphs[precision]
    artifact = leanly.lower(graph, runtime=runtime, to=tmp_path / "a")
    seconds = profile(artifact, batch_size=3, calls=5)
    multiply = [kernel.name for kernel in artifact.proven if MULTIPLIES.search(kernel.operator)]
    assert multiply and all(0 <= seconds[name] < 1 for name in multiply)
    assert set(layer_seconds(graph, LAYERS, artifact.proven, seconds)) == set(LAYERS)
    assert sum(seconds.values()) > 0


class Normed(nn.Module):
    """What the exporter fuses and numbers: padding, batch norm with nothing behind it, products and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.second_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.product, self.last = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first_norm(self.first(nn.functional.pad(x, (0, 1, 0, 1))))
        x = x + self.second_norm(self.second(x))
        return self.last(self.product(x.flatten(2).transpose(1, 2)).relu())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_layers_that_were_fused_are_timed_too(runtime, tmp_path: Path):
    torch.manual_seed(0)
    graph = leanly.capture(Normed().eval(), example=torch.randn(2, 3, 16, 16))
    artifact = leanly.lower(graph, runtime=runtime, to=tmp_path / "a")
    layers = ("conv2d", "conv2d_1", "linear", "linear_1")
    for rows in (1, 4):
        seconds = profile(artifact, batch_size=rows, calls=5)
        assert set(layer_seconds(graph, layers, artifact.proven, seconds)) == set(layers)


def test_compiled_code_has_no_nodes(graphs, tmp_path: Path):
    artifact = leanly.lower(graphs["float32"], runtime="torch", to=tmp_path / "a", eager=True)
    assert profile(artifact, calls=2) == {}


@pytest.mark.parametrize("settings", [{"calls": 0}, {"batch_size": 0}, {"threads": True}])
def test_bad_settings_are_refused_before_anything_is_opened(settings, tmp_path: Path):
    nowhere = Artifact(tmp_path, "onnxruntime", "float32", ("absent.onnx",), (), (), {}, 0)
    with pytest.raises(SettingError, match=next(iter(settings))):
        profile(nowhere, **settings)


def test_a_layer_is_found_under_what_is_fused_behind_it_and_no_other(graphs):
    graph = graphs["float32"]
    nodes = {node.name: node for node in graph.module.graph.nodes}
    kernels = [
        Kernel("node_conv2d_1/WithoutBiases", "Convolution", "float32"),
        Kernel("relu_nchwc", "Conv", "float32"),
        Kernel("linear", "Reshape", "float32"),
    ]
    assert kernel_of(graph, nodes["conv2d_1"], kernels) is kernels[0]
    assert kernel_of(graph, nodes["conv2d"], kernels) is kernels[1], "conv2d_1 begins with its name, but is another"
    assert kernel_of(graph, nodes["linear"], kernels) is None, "a reshape multiplies nothing"
    assert layer_seconds(graph, LAYERS, kernels, {"relu_nchwc": 2.0}) == {"conv2d": 2.0}

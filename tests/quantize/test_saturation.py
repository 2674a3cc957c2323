"""Where kernels add products in 16 bits: no sum of two passes them, in any layout, in either runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import leanly
from leanly.graph.tensors import find
from leanly.prune import Channels, magnitude
from leanly.quantize import Static
from leanly.quantize.quantizers import read_affine, weight_quantizers
from leanly.quantize.saturation import largest_pairs, widened
from leanly.quantize.static import weight_affine
from leanly.runtimes import open_artifact
from tests.quantize.networks import residual

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: nn.Conv2d(32, 32, 3, padding=1), (32, 8, 8)),
    "convolution of 1 x 1": (lambda: nn.Conv2d(32, 64, 1), (32, 8, 8)),
    "first layer": (lambda: nn.Conv2d(3, 32, 3, stride=2), (3, 17, 17)),
    "odd channels": (lambda: nn.Conv2d(33, 32, 3), (33, 8, 8)),
    "groups": (lambda: nn.Conv2d(32, 32, 3, groups=4), (32, 8, 8)),
    "groups of two": (lambda: nn.Conv2d(32, 16, 3, groups=16), (32, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(32, 32, 3, groups=32), (32, 8, 8)),
    "depthwise, stride 2": (lambda: nn.Conv2d(48, 48, 5, stride=2, groups=48), (48, 9, 9)),
    "depthwise, two outputs": (lambda: nn.Conv2d(32, 64, 3, groups=32), (32, 8, 8)),
    "one dimension": (lambda: nn.Conv1d(32, 32, 3), (32, 16)),
    "depthwise in one dimension": (lambda: nn.Conv1d(32, 32, 3, groups=32), (32, 16)),
    "linear": (lambda: nn.Linear(64, 32), (64,)),
    "linear, odd": (lambda: nn.Linear(65, 32), (65,)),
}


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
def test_two_neighbours_come_to_one_byte(channels: int, side: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(6, channels, side, 1) ** 3
    affine = weight_affine(weight, 8, "channel", in_pairs=True)
    sums = largest_pairs(affine.quantize(weight).float())
    assert sums.max() <= 128
    assert sums.min() >= 126, "no finer scale would do"


def test_it_is_finer_than_seven_bits() -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64, 3, 3)
    lost = [
        float((affine.dequantize(affine.quantize(weight)) - weight).square().mean())
        for affine in (weight_affine(weight, 8, "channel", in_pairs=True), weight_affine(weight, 7, "channel"))
    ]
    assert lost[0] < 0.6 * lost[1]


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_static_leaves_room_for_two_where_there_is_no_vnni(granularity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, task = residual()

    def most(vnni: bool) -> int:
        monkeypatch.setattr(leanly.Target, "vnni", property(lambda self: vnni))
        quantized = Static(granularity=granularity)(graph, task, leanly.Target("cpu"))
        largest = 0
        for name, node in weight_quantizers(quantized, "test").items():
            weight = find(quantized.module, name).detach()
            integers = read_affine(quantized.module, node).quantize(weight)
            largest = max(largest, int(largest_pairs(integers.float()).max()))
        return largest

    assert 126 <= most(vnni=False) <= 128 < most(vnni=True)


class Beside(nn.Module):
    """All layers beside each other, each with an input and an output of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make() for make, _ in LAYERS.values())

    def forward(self, xs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [layer(x) for layer, x in zip(self.layers, xs, strict=True)]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_no_kernel_saturates_without_vnni(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest activations, and weights that would pass 16 bits were others neighbours than is thought."""
    monkeypatch.setattr(leanly.Target, "vnni", property(lambda self: False))
    model = Beside().eval()
    xs = [torch.cat([torch.ones(1, *shape), torch.rand(7, *shape)]) for _, shape in LAYERS.values()]
    with torch.no_grad():
        for layer in model.layers:
            weight = layer.weight
            channel = torch.arange(weight.shape[1])[:, None]
            tap = torch.arange(weight[0, 0].numel())
            every = [torch.ones(1), channel % 2 == 0, channel % 4 == 0, tap % 2 == 0]
            for output, filters in enumerate(weight):
                filters.copy_(every[output % len(every)].expand(len(channel), len(tap)).reshape(filters.shape))
    rows = [([x[row] for x in xs], 0) for row in range(8)]
    example = ([x[:2] for x in xs],)
    task = leanly.Task(model, example=example, train=rows, loss="mse")
    static = Static(observer="minmax", kernels=runtime)
    quantized = static(leanly.capture(model, example=example).eval(), task, leanly.Target("cpu"))
    artifact = leanly.lower(quantized, runtime=runtime, to=tmp_path / "a", precision="int8")
    first = [x[:1] for x in xs]
    with torch.no_grad():
        pairs = zip(LAYERS, open_artifact(artifact)([x.numpy() for x in first]), quantized(first), strict=True)
    for name, found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, atol=0.01 * float(wanted.abs().max()), err_msg=name)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_neighbours_that_a_cut_gave_pass_no_16_bits(
    runtime: str, granularity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second input is nothing beside the others, until it leaves and these become neighbours."""
    monkeypatch.setattr(leanly.Target, "vnni", property(lambda self: False))
    model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval(), torch.rand(64, 64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
        model[2].weight[:, 1::2] *= 0.01
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(64, dtype=torch.long)))
    static = Static(observer="minmax", kernels=runtime, granularity=granularity)
    quantized = static(leanly.capture(model, example=x[:2]).eval(), task, leanly.Target("cpu"))
    small = Channels(fraction=0.5, importance=magnitude)(quantized)
    assert len(small.kept["2.weight"][1]) == 32
    artifact = leanly.lower(small, runtime=runtime, to=tmp_path / "a", precision="int8")
    assert any("adds neighbouring products in 16 bits" in note and "2.weight" in note for note in artifact.notes)
    ones = torch.ones(1, 64)
    found, wanted = open_artifact(artifact)(ones.numpy()), small(ones).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=0.02 * np.abs(wanted).max())


def test_a_graph_in_which_no_sum_passes_16_bits_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leanly.Target, "vnni", property(lambda self: False))
    graph, task = residual()
    quantized = Static()(graph, task, leanly.Target("cpu"))
    assert widened(quantized) is quantized

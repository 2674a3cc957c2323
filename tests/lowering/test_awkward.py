"""Integer artifacts of what runtimes get wrong when it is written in the plain way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.artifact import Artifact
from leanly.errors import LoweringError, SettingError
from leanly.lowering.proof import sqnr
from leanly.measurement.attribution import MULTIPLIES
from leanly.quantize import CorrectBias, Mixed, Smooth, Static, WeightsOnly
from leanly.recipe import Pass, Recipe
from leanly.runtimes import open_artifact
from tests.once import once

RUNTIMES = ("onnxruntime", "openvino")


class Beside(nn.Module):
    """Networks that read the same and know nothing of each other: lowering them together takes no longer than one."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(network(x) for network in self.networks)


@once
def captured(networks: Callable[[], Iterable[nn.Module]], *shape: int) -> tuple[leanly.Graph, leanly.Task]:
    model, x = Beside(networks()).eval(), torch.randn(*shape)
    task = leanly.Task(model, example=x[:2], train=(x, None))
    return leanly.capture(model, example=x[:2]), task


def quality(case: tuple[leanly.Graph, leanly.Task], runtime: str, folder: Path, before: Sequence[Pass] = ()) -> float:
    """Return how much louder each output is than what the artifact misses of it, in decibels: the least of them."""
    graph, task = case
    graph = Recipe((*before, Static(kernels=runtime)))(graph, task)
    predictor = open_artifact(leanly.lower(graph, runtime=runtime, to=folder / "a"), threads=1)
    x, _ = task.train
    with torch.no_grad():
        outputs = graph.flat(x)
    return min(sqnr(one.numpy(), other) for one, other in zip(outputs, predictor.run([x.numpy()]), strict=True))


def constant(gamma: float, bias: float) -> nn.Module:
    """One channel is nothing beside its bias."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
    )
    with torch.no_grad():
        model[3].weight[1], model[3].bias[1] = gamma, bias
    return model


def constants() -> list[nn.Module]:
    return [constant(*one) for one in ((1e-4, 1.0), (1e-6, 0.1), (0.0, 0.5), (1e-5, 0.37), (1e-5, 0.9))]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_channel_that_is_nothing_beside_its_bias(runtime, tmp_path):
    assert quality(captured(constants, 32, 3, 8, 8), runtime, tmp_path) > 35


@pytest.mark.parametrize("activations", [8, 4])
def test_what_moves_integers_between_kernels_is_listed_as_integer(activations, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)
    ).eval()
    x = torch.randn(32, 3, 8, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(32) % 5))
    static = Static(activations=activations, kernels="onnxruntime")
    quantized = static(leanly.capture(model, example=x[:2]), task)
    artifact = leanly.lower(quantized, runtime="onnxruntime", to=tmp_path / "a")
    found = {kernel.operator: kernel.precision for kernel in artifact.kernels()}
    between = {name for name in found if "MaxPool" in name or name in ("Clip", "Transpose", "Reshape")}
    assert between and {found[name] for name in between} == {"int8"}, found


def padded(value: float, layer: nn.Module) -> nn.Module:
    """A layer between two convolutions, behind a pad."""
    pad = nn.ConstantPad2d(1, value)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), pad, layer, nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))


def pads() -> list[nn.Module]:
    """With zeros, a half, far below and infinitely far below what is there."""
    convolutions = [padded(value, nn.Conv2d(8, 8, 3, padding=0)) for value in (0.0, 0.5, -4.0)]
    return [*convolutions, *(padded(value, nn.MaxPool2d(3, 1)) for value in (-float("inf"), 0.5))]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_convolution_behind_a_pad_of_any_value_is_integer(runtime: str, tmp_path):
    assert quality(captured(pads, 32, 3, 8, 8), runtime, tmp_path) > 30
    kernels = Artifact.open(tmp_path / "a").kernels()
    layers = [kernel.precision for kernel in kernels if MULTIPLIES.search(kernel.operator)]
    assert layers == ["int8"] * 18, kernels


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_convolution_kept_in_float_between_integers_is_float(runtime, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    ).eval()
    x = torch.randn(64, 3, 8, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 10))
    graph = leanly.capture(model, example=x[:2])
    precisions = []
    for kept in ((), ("conv2d_1",)):
        quantized = Static(float_nodes=kept, kernels=runtime)(graph, task)
        artifact = leanly.lower(quantized, runtime=runtime, to=tmp_path / "a")
        layers = [kernel for kernel in artifact.kernels() if MULTIPLIES.search(kernel.operator)]
        precisions.append([kernel.precision for kernel in layers])
    assert precisions == [["int8"] * 3, ["int8", "float32", "int8"]]


class Taken(nn.Module):
    """A layer that reads one place, or the same place many times."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.one, self.head = kind, nn.Linear(16, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.tanh(self.one(x))
        return self.head(
            {"first": made[:, 0], "last": made[:, -1], "again": made[:, None].expand(-1, 2, -1, -1)}[self.kind]
        )


def takers() -> list[nn.Module]:
    return [Taken(kind) for kind in ("first", "last", "again")]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_layer_behind_what_takes_or_repeats_is_integer(runtime, tmp_path):
    assert quality(captured(takers, 64, 4, 16), runtime, tmp_path) > 55
    layers = [kernel for kernel in leanly.Artifact.open(tmp_path / "a").kernels() if MULTIPLIES.search(kernel.operator)]
    assert [kernel.precision for kernel in layers] == ["int8"] * 6


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_corrected_layer_that_had_no_bias_is_lowered(runtime, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10, bias=False)).eval()
    x = torch.randn(64, 32)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 10))
    recipe = Recipe((Static(kernels=runtime), CorrectBias()))
    graph = recipe(leanly.capture(model, example=x[:2]), task)
    predictor = open_artifact(leanly.lower(graph, runtime=runtime, to=tmp_path / "a"))
    assert sqnr(graph(x).detach().numpy(), predictor(x.numpy())) > 45


class Pooled(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.head, self.scale = kind, nn.Linear(32, 8), nn.Parameter(torch.rand(32) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = {"mean": x.mean(1), "sum": x.sum(1), "amax": x.amax(1), "amin": x.amin(1)}[self.kind]
        return self.head(pooled * self.scale)


def pools() -> list[nn.Module]:
    return [Pooled(kind) for kind in ("mean", "sum", "amax", "amin")]


def pools_before_relu() -> list[nn.Module]:
    return [nn.Sequential(pool, nn.ReLU()) for pool in pools()]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_channels_scaled_behind_a_reduction(runtime, tmp_path):
    assert quality(captured(pools, 64, 6, 32), runtime, tmp_path) > 35
    assert quality(captured(pools_before_relu, 64, 6, 32), runtime, tmp_path / "smooth", (Smooth(),)) > 35


class Tied(nn.Module):
    """Looks up and multiplies with one table, as language models do; the last token's outputs are what counts."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last
        self.table, self.middle, self.head = nn.Embedding(32, 16), nn.Linear(16, 16), nn.Linear(16, 32, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found = self.head(torch.relu(self.middle(self.table(ids))))
        return found[:, -1] if self.last else found


TIED = {
    "float": (),
    "packed": (WeightsOnly(group=16, bits=8),),
    "int8": (Static(),),
    "mixed": (Mixed(average=6.0, choices=(4, 8)),),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", TIED)
def test_one_table_that_is_looked_up_and_multiplied_with(kind: str, last: bool, runtime: str, tmp_path):
    torch.manual_seed(0)
    model, ids = Tied(last).eval(), torch.randint(0, 32, (64, 6))
    task = leanly.Task(model, example=ids[:2], train=(ids, None), metric="mse", loss="mse")
    graph = Recipe(TIED[kind])(leanly.capture(model, example=ids[:2]), task)
    artifact = leanly.lower(graph, runtime=runtime, to=tmp_path / "a")
    found = open_artifact(artifact, threads=1).run([ids[:5].numpy()])[0]
    assert sqnr(graph(ids[:5]).detach().numpy(), found) > 30
    if kind == "float":
        tensors = sum(parameter.numel() for parameter in graph.parameters())
        assert artifact.model.stat().st_size < 4 * tensors + 4000, "the table lies there once"


class Named(nn.Module):
    """An input and an output are called as an operator inside is."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(6, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, cat: torch.Tensor, relu: torch.Tensor) -> dict[str, torch.Tensor]:
        y = torch.relu(self.two(torch.relu(self.one(torch.cat([cat, relu], 1)))))
        return {"mean": y.mean((2, 3)), "exp": y.amax((2, 3)).exp()}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_inputs_and_outputs_called_as_operators_are(precision, runtime, tmp_path):
    torch.manual_seed(0)
    model, x = Named().eval(), [0.3 * torch.randn(32, 3, 8, 8) for _ in range(2)]
    task = leanly.Task(model, example=tuple(one[:2] for one in x), train=(tuple(x), None))
    graph = leanly.capture(model, example=task.example)
    graph = Static(kernels=runtime)(graph, task) if precision == "int8" else graph
    predictor = open_artifact(leanly.lower(graph, runtime=runtime, to=tmp_path / "a", precision=precision), threads=1)
    found = predictor(*(one.numpy() for one in x))
    with torch.no_grad():
        wanted = graph(*x)
    assert set(found) == {"mean", "exp"}
    assert min(sqnr(wanted[name].numpy(), found[name]) for name in found) > 30


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_what_a_runtime_can_not_run_is_told_with_the_way_out(tmp_path):
    """The exporter writes no projection of a recurrent layer right."""
    graph = leanly.capture(nn.LSTM(6, 8, proj_size=4, batch_first=True).eval(), example=torch.randn(2, 5, 6))
    for runtime in RUNTIMES:
        with pytest.raises(
            LoweringError, match=rf'{runtime} can\'t run what was written.*use another runtime: "torch"'
        ):
            leanly.lower(graph, runtime=runtime, to=tmp_path / runtime)
    assert leanly.lower(graph, runtime="torch", to=tmp_path / "torch", eager=True).runtime == "torch"


def test_inputs_in_bfloat16_are_refused_before_any_work(tmp_path):
    graph = leanly.capture(nn.Linear(4, 3).bfloat16(), example=torch.randn(2, 4, dtype=torch.bfloat16))
    with pytest.raises(SettingError, match=r'input is bfloat16.*capture model.float\(\).*precision="bfloat16"'):
        leanly.lower(graph, to=tmp_path / "a")

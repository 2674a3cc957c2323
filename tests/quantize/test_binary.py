"""Binary: signs and their scales, gradients that go through them, the network around them, and training that gains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leanly
from leanly.distill import Distill
from leanly.errors import DataError, SettingError
from leanly.graph.binarizer import signs, split_weight
from leanly.graph.folding import fold_batch_norm
from leanly.quantize import Binary, Static
from leanly.quantize.binary import OF_VALUES, OF_WEIGHT, is_binarized
from leanly.training import BatchNorm, Settings
from tests.once import once
from tests.quantize.networks import error, inputs_of, perceptron, residual

aten = torch.ops.aten


class Blocks(nn.Module):
    """As a residual network of the CIFAR kind: a stem, a block that keeps its width, one that does not, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two, self.norm2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.norm1(self.one(x)))
        x = torch.relu(self.norm2(self.two(x)))
        return self.head(x.mean((2, 3)))


@once
def blocks(rows: int = 64) -> tuple[leanly.Graph, leanly.Task]:
    model, x = Blocks().train(), torch.randn(rows, 3, 8, 8)
    with torch.no_grad():
        for _ in range(5):
            model(x)
    model.eval()
    task = leanly.Task(model, example=(x[:2],), train=(x, torch.arange(rows) % 5))
    return leanly.capture(model, example=(x[:2],)), task


def nodes(graph: leanly.Graph, *targets: object) -> list[torch.fx.Node]:
    return [node for node in graph.module.graph.nodes if node.target in targets]


def test_no_other_scale_of_the_signs_comes_nearer_to_a_weight() -> None:
    weight = torch.randn(6, 4, 3, 3) + torch.arange(6.0)[:, None, None, None]
    sign, scale = split_weight(weight)
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    lost = [
        (centred - sign * (scale * factor)[:, None, None, None]).square().sum((1, 2, 3)) for factor in (1, 0.98, 1.02)
    ]
    assert bool((lost[0] < lost[1]).all() and (lost[0] < lost[2]).all())


def test_a_channel_times_a_number_gives_that_number_times_its_signs() -> None:
    weight, factor = torch.randn(4, 7), torch.tensor([2.0, -0.5, 1.0, -3.0])
    binarize = torch.ops.leanly.binarize_weight
    torch.testing.assert_close(binarize(weight * factor[:, None]), binarize(weight) * factor[:, None])


def test_gradients_are_those_of_a_parabola_in_the_place_of_the_sign() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 4, requires_grad=True)
    threshold, scale = torch.randn(3, requires_grad=True), torch.tensor(0.8, requires_grad=True)
    weight = torch.randn(5, 3, 4, 4)

    def parabola(steps: Tensor) -> Tensor:
        inside = steps.clamp(-1, 1)
        return 2 * inside - inside * inside.abs()

    steps = (x - threshold[:, None, None]) / scale
    smooth = parabola(steps)
    stand_in = scale * (smooth + (signs(steps) - smooth).detach())
    wanted = torch.autograd.grad((stand_in * weight).sum(), (x, threshold, scale))
    out = torch.ops.leanly.binarize(x, threshold, scale, 1)
    torch.testing.assert_close(out, stand_in)
    found = torch.autograd.grad((out * weight).sum(), (x, threshold, scale))
    torch.testing.assert_close(found, wanted)


def test_all_layers_but_the_first_and_the_last_go_to_one_bit() -> None:
    graph, task = blocks()
    before = graph.fingerprint()
    binary = Binary()(graph, task)
    assert graph.fingerprint() == before
    layers = nodes(binary, aten.conv2d.default, aten.linear.default)
    assert [is_binarized(layer) for layer in layers] == [False, True, True, False]
    assert len(nodes(binary, aten.prelu.default)) == 2 and len(nodes(binary, aten.relu.default)) == 1
    # only the first of the two keeps its shape
    assert len(nodes(binary, aten.add.Tensor)) == 1
    plain = Binary(shortcuts=False)(graph, task)
    assert not nodes(plain, aten.prelu.default, aten.add.Tensor) and len(nodes(plain, OF_VALUES)) == 2


class Residual(nn.Module):
    """Blocks of two layers, each with a shortcut around both."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2 * count))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2 * count))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for place in range(0, len(self.layers), 2):
            y = torch.relu(self.norms[place](self.layers[place](x)))
            x = torch.relu(self.norms[place + 1](self.layers[place + 1](y)) + x)
        return self.head(x.mean((2, 3)))


def test_shortcuts_around_layers_take_the_place_of_those_around_blocks() -> None:
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(16, 3, 8, 8)
    task = leanly.Task(model, example=(x[:2],), train=(x, torch.arange(16) % 5))
    binary = Binary()(leanly.capture(model, example=(x[:2],)), task).eval()
    sums = nodes(binary, aten.add.Tensor)
    assert len(sums) == len(model.layers), "one a layer, none around a block"
    with torch.no_grad():
        for norm in nodes(binary, aten.batch_norm.default):
            binary.module.get_parameter(str(norm.args[1].target)).zero_()
        passed_on_once = model.head(torch.relu(model.stem(x)).mean((2, 3)))
        torch.testing.assert_close(binary(x), passed_on_once)


def test_thresholds_start_where_they_halve_what_each_layer_reads() -> None:
    graph, task = blocks()
    binary = Binary(shortcuts=False)(graph, task)
    first = nodes(binary, OF_VALUES)[0]
    stem = torch.relu(task.model.stem(inputs_of(task)))
    threshold = binary.module.get_parameter(str(first.args[1].target))
    torch.testing.assert_close(threshold.detach(), stem.mean((0, 2, 3)).detach())
    scale = binary.module.get_parameter(str(first.args[2].target))
    torch.testing.assert_close(scale.detach(), (stem - threshold[:, None, None]).abs().mean().detach())


def test_weights_alone_need_no_rows() -> None:
    graph, _ = residual()
    binary = Binary(activations=32)(graph)
    assert len(nodes(binary, OF_WEIGHT)) == 2 and not nodes(binary, OF_VALUES, aten.prelu.default)
    rest = [str(node.args[0].target) for node in nodes(binary, OF_WEIGHT)]
    assert rest == ["one.weight", "two.weight"]


@pytest.mark.parametrize("activations", [1, 32])
def test_training_gains_what_one_bit_lost(activations: int) -> None:
    graph, task = blocks(128)
    binary = BatchNorm()(Binary(activations=activations)(graph, task), task)
    lost = error(graph, binary, task)
    taught = Distill(graph, epochs=12, alpha=1.0, settings=Settings(batch_size=16, learning_rate=3e-3))(binary, task)
    assert error(graph, taught, task) < 0.6 * lost
    assert [is_binarized(layer) for layer in nodes(taught, aten.conv2d.default)] == [False] + 2 * [activations == 1]


def test_weights_may_follow_in_a_second_pass() -> None:
    graph, task = blocks()
    first = Binary(weights=32)(graph, task)
    assert nodes(first, OF_VALUES) and not nodes(first, OF_WEIGHT)
    taught = Distill(epochs=1, settings=Settings(batch_size=16, precision="float32"))(first, task)
    both, at_once = Binary(activations=32)(taught, task), Binary()(graph, task)
    assert [node.target for node in both.module.graph.nodes] == [node.target for node in at_once.module.graph.nodes]
    slopes = [name for name, _ in taught.named_parameters() if name.startswith(("slopes.", "thresholds."))]
    assert slopes and all(
        torch.equal(both.module.get_parameter(name), taught.module.get_parameter(name)) for name in slopes
    )


def test_batch_norm_folds_through_the_signs() -> None:
    graph, task = blocks()
    with torch.no_grad():
        graph.module.get_parameter("norm1.weight").copy_(torch.randn(8))
    binary = Binary()(graph, task).eval()
    folded = fold_batch_norm(binary)
    assert not nodes(folded, aten.batch_norm.default)
    x = inputs_of(task)
    torch.testing.assert_close(folded(x), binary(x), rtol=1e-4, atol=1e-4)


def test_weights_next_to_their_mean_keep_their_signs_when_batch_norm_folds() -> None:
    graph, task = blocks()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in graph.module.named_parameters():
            if name.startswith("norm"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            if tensor.ndim == 4 and tensor.shape[1] == 8:
                half = torch.rand(tensor[:, : tensor.shape[1] // 2].shape, generator=generator)
                apart = torch.where(half < 0.5, 1e-8, 0.3) * torch.where(half < 0.75, 1.0, -1.0)
                tensor.copy_(0.1 + torch.cat([apart, -apart], 1))
    binary = Binary(activations=32)(graph, task).eval()
    x = inputs_of(task)
    torch.testing.assert_close(fold_batch_norm(binary)(x), binary(x), rtol=1e-4, atol=1e-4)


def test_opened_in_a_fresh_process_it_is_the_same(tmp_path: Path) -> None:
    graph, task = blocks()
    binary = Binary()(graph, task).eval()
    binary.save(tmp_path / "g")
    x = inputs_of(task)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch, leanly; "
        "print(leanly.Graph.open(sys.argv[1]).eval()(torch.load(sys.argv[2])).detach().double().sum().item())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "g", tmp_path / "x.pt"], capture_output=True, text=True, check=True
    )
    assert float(told.stdout) == pytest.approx(float(binary(x).detach().double().sum()), rel=1e-5)


def test_saved_and_opened_it_is_the_same(tmp_path: Path) -> None:
    graph, task = blocks()
    binary = Binary()(graph, task).eval()
    binary.save(tmp_path / "g")
    opened = leanly.Graph.open(tmp_path / "g").eval()
    x = inputs_of(task)
    torch.testing.assert_close(opened(x), binary(x))


@pytest.mark.parametrize("settings", [{}, {"weights": 32}])
def test_where_no_kernel_is_integer_the_artifact_says_so(tmp_path: Path, settings: dict[str, int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.randn(32, 8)
    task = leanly.Task(model, example=(x[:2],), train=(x, torch.arange(32) % 3))
    binary = Binary(**settings)(leanly.capture(model, example=(x[:2],)), task)
    artifact = leanly.lower(binary, runtime="onnxruntime", to=tmp_path / "signs")
    assert artifact.precision == "float32"
    assert all(kernel.precision != "int8" for kernel in artifact.kernels() if "Gemm" in kernel.operator)


def test_what_can_not_be_asked_for_is_refused() -> None:
    graph, task = residual()
    with pytest.raises(SettingError, match="activations=2 bits"):
        Binary(activations=2)
    with pytest.raises(SettingError, match="samples"):
        Binary(samples=1)
    with pytest.raises(SettingError, match=r"'conv2d_9', which is no node.*conv2d"):
        Binary(float_nodes=("conv2d_9",))(graph, task)
    with pytest.raises(SettingError, match="of 2 the first and the last stay float"):
        Binary()(*perceptron())
    with pytest.raises(DataError, match="calibration needs data"):
        Binary()(graph)


def test_what_is_in_one_bit_is_not_put_there_again() -> None:
    graph, task = blocks()
    for first, second in ((Binary(), Binary()), (Binary(weights=32), Binary()), (Binary(activations=32), Binary())):
        with pytest.raises(SettingError, match="in one bit already"):
            second(first(graph, task), task)
    with pytest.raises(SettingError, match="no convolution or linear layer"):
        Binary()(leanly.capture(nn.ReLU(), example=torch.randn(2, 3)), task)


def test_static_quantizes_what_is_not_in_one_bit_and_says_so() -> None:
    graph, task = blocks()
    (note,) = Static()(Binary()(graph, task).eval(), task).notes
    assert note.startswith("quantize.Static: in one bit already: conv2d_1 ") and "no integer kernel" not in note


def test_a_row_that_is_as_good_as_infinite_is_named() -> None:
    graph, task = blocks()
    x = inputs_of(task).clone()
    x[5, 0, 0, 0] = 3e38
    wild = leanly.Task(task.model, example=x[:2], train=(x, torch.zeros(len(x), dtype=torch.long)))
    with pytest.raises(DataError, match=r"a value of 1e\+38 or more in row 5"):
        Binary()(graph, wild)

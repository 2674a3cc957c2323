"""Graph -> artifact -> kernels: what is written does what the graph does, in integers where it says so."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import leanly
from leanly.artifact import Artifact, Plan
from leanly.errors import BundleError, LoweringError, MissingExtra, SettingError
from leanly.lowering import lower
from leanly.lowering.proof import prove, sqnr
from leanly.quantize import Binary, Static, WeightsOnly
from leanly.runtimes import open_artifact
from tests import forked

FULL = """
import resource, sys, leanly, leanly.errors
graph = leanly.Graph.open("graph")
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
try:
    leanly.lower(graph, runtime=sys.argv[1], to="a")
except leanly.errors.RunError as error:
    sys.exit(f"RunError: {error}")
"""


class Residual(nn.Module):
    """Convolutions, batch norm, a residual add, a concatenation, a hard-coded view."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.head = nn.Linear(32 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu_(self.norm(self.first(x)))
        b = torch.relu(a + self.second(a))
        c = torch.max_pool2d(torch.relu(self.depthwise(torch.cat([a, b], 1))), 2)
        return self.head(c.view(-1, 32 * 16))


def task_for(model: nn.Module, x: torch.Tensor) -> leanly.Task:
    return leanly.Task(model, example=(x[:2],), train=(x, torch.arange(len(x)) % 5))


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = Residual()
    x = torch.randn(64, 3, 8, 8)
    for _ in range(5):
        model(x)  # running statistics that are not the initial ones
    return model.eval(), x


@pytest.fixture(scope="module")
def graph(case) -> leanly.Graph:
    model, x = case
    return leanly.capture(model, example=(x[:2],))


@pytest.fixture(scope="module")
def lowered(graph, tmp_path_factory) -> Callable[[str], Artifact]:
    """Return a function that lowers the network to a runtime once."""

    @functools.cache
    def made(runtime: str) -> Artifact:
        return lower(graph, runtime=runtime, to=tmp_path_factory.mktemp(runtime) / "a", eager=runtime == "torch")

    return made


@pytest.fixture(scope="module")
def integers(case, graph, tmp_path_factory) -> Callable[[str], tuple[leanly.Graph, Artifact]]:
    """Return a function that quantizes the network for a runtime and lowers it, once."""

    @functools.cache
    def made(runtime: str) -> tuple[leanly.Graph, Artifact]:
        quantized = Static(kernels=runtime)(graph, task_for(*case))
        return quantized, lower(quantized, runtime=runtime, to=tmp_path_factory.mktemp(runtime) / "a")

    return made


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_float_agrees_at_any_batch(case, lowered, runtime):
    model, x = case
    artifact = lowered(runtime)
    predictor = open_artifact(Artifact.open(artifact.folder))
    assert artifact.precision == "float32" and artifact.bytes > 0
    for size in (1, 3, 8, 17):
        assert torch.allclose(predictor(x[:size]), model(x[:size]), atol=1e-5)
    assert isinstance(predictor(x[:1].numpy()), np.ndarray)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_computes_in_integers_and_stores_them(case, integers, runtime):
    model, x = case
    quantized, artifact = integers(runtime)
    heavy = [k for k in artifact.kernels() if "conv" in k.operator.lower() or k.operator in ("QGemm", "FullyConnected")]
    assert len(heavy) == 4
    assert {kernel.precision for kernel in heavy} == {"int8"}
    stored = onnx.load(str(artifact.model)).graph.initializer
    weights = {tensor.name: tensor.data_type for tensor in stored if np.prod(tensor.dims) > 100}
    assert set(weights.values()) == {onnx.TensorProto.INT8}, "no weight is stored as float"
    predictor = open_artifact(artifact)
    expected = quantized(x).detach().numpy()
    step = np.abs(expected).max() / 127
    assert np.abs(predictor(x.numpy()) - expected).max() < 4 * step
    assert sqnr(model(x).detach().numpy(), expected) > 20


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("plan", [Plan(1), Plan(2, static=True), Plan(1, 2, 4, True), Plan(1, 2, 3), Plan(2, 1, 5)])
def test_plans_change_the_way_not_the_numbers(case, lowered, runtime, plan):
    model, x = case
    predictor = open_artifact(lowered(runtime).with_plans({16: plan}))
    assert torch.allclose(predictor(x[:16]), model(x[:16]), atol=1e-5)
    assert torch.allclose(predictor(x[:5]), model(x[:5]), atol=1e-5)


def test_bfloat16_is_what_openvino_computes_in(graph, tmp_path):
    if not leanly.Target("cpu").bf16:
        pytest.skip("this machine has no bfloat16")
    artifact = lower(graph, runtime="openvino", to=tmp_path / "a", precision="bfloat16")
    assert {k.precision for k in artifact.kernels() if k.operator == "Convolution"} == {"bfloat16"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runtime": "tflite"}, "unknown runtime"),
        ({"precision": "int4"}, "unknown precision"),
        ({"precision": "int8"}, "without quantizers"),
        ({"precision": "bfloat16"}, "no bfloat16 kernels"),
        ({"runtime": "openvino", "rest": "bfloat16"}, 'leave rest out, or use precision="bfloat16"'),
    ],
)
def test_what_can_not_be_is_refused_before_any_work(graph, settings, words, tmp_path):
    with pytest.raises(SettingError, match=words):
        lower(graph, to=tmp_path / "a", **settings)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("step", "form"),
    [
        (Static(), "products of integers"),
        (WeightsOnly(group=16), "packed weights"),
        (Binary(), "one-bit layers"),
        (Binary(activations=32), "one-bit layers"),
    ],
    ids=["integers", "packed", "signs", "signs of weights"],
)
def test_torch_runs_no_few_bits_and_says_so_before_any_work(case, graph, step, form, tmp_path, monkeypatch):
    few = step(graph, task_for(*case))
    monkeypatch.setattr(leanly.Graph, "save", lambda *_: pytest.fail("work was done"))
    with pytest.raises(LoweringError, match=f'torch has no kernels for {form}.*"onnxruntime" or "openvino"'):
        lower(few, runtime="torch", to=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_packed_weights_are_no_int8_in_openvino(graph, tmp_path, monkeypatch):
    packed = WeightsOnly(group=16)(graph)
    monkeypatch.setattr("leanly.lowering.artifacts.store_integers", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(SettingError, match=r"OpenVINO multiplies packed weights in float.*leave precision out"):
        lower(packed, runtime="openvino", to=tmp_path / "a", precision="int8")


def test_a_runtime_that_is_not_installed_is_named_before_any_work(graph, tmp_path, monkeypatch):
    monkeypatch.setattr("leanly.lowering.artifacts.installed_runtimes", lambda: ("torch",))
    monkeypatch.setattr("leanly.lowering.artifacts.store_integers", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(MissingExtra, match="'openvino' is not installed"):
        lower(graph, runtime="openvino", to=tmp_path / "a")


def test_an_int8_artifact_without_integer_kernels_is_an_error(integers, tmp_path, monkeypatch):
    quantized, _ = integers("onnxruntime")
    monkeypatch.setattr("leanly.runtimes.onnxruntime.INTEGER_OPERATORS", frozenset())
    with pytest.raises(LoweringError, match="no kernel of the int8 model runs in integers"):
        lower(quantized, runtime="onnxruntime", to=tmp_path / "a")


def test_an_artifact_that_differs_from_its_graph_is_an_error(graph, tmp_path, monkeypatch):
    other = leanly.capture(Residual(), example=graph.example)
    monkeypatch.setattr("leanly.lowering.artifacts.store_integers", lambda graph, **_: (other, {}, {}))
    with pytest.raises(LoweringError, match="differs from the graph's at batch 1"):
        lower(graph, to=tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("text", ["", "{", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_description_is_refused(case, text, tmp_path):
    (tmp_path / "artifact.json").write_text(text)
    with pytest.raises(BundleError, match=r"artifact\.json"):
        Artifact.open(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("precision", "int9"), ("rest", "int8"), ("runtime", "tvm")])
def test_what_leanly_does_not_know_is_refused(lowered, key, value, tmp_path):
    artifact = lowered("onnxruntime")
    shutil.copytree(artifact.folder, tmp_path / "a")
    replace(artifact, folder=tmp_path / "a", **{key: value}).save()
    with pytest.raises(BundleError, match=f"unknown {key} '{value}'"):
        Artifact.open(tmp_path / "a")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_no_room_for_an_artifact_leaves_nothing(graph, runtime, tmp_path):
    graph.save(tmp_path / "graph")
    done = forked.python(["-c", FULL, runtime], cwd=tmp_path)
    assert "RunError" in done.stderr.splitlines()[-1] and "can't be written" in done.stderr, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]


def test_the_exporters_translations_are_read_once(graph, lowered, tmp_path):
    from torch._export import utils
    from torch.onnx._internal._lazy_import import onnxscript_apis
    from torch.onnx._internal.exporter import _schemas

    lowered("onnxruntime")
    signed = _schemas.op_signature_from_function.cache_info()
    lower(graph, runtime="onnxruntime", to=tmp_path / "again")
    read = onnxscript_apis.get_torchlib_ops.cache_info()
    assert read.misses == 1 and read.hits >= 1
    again = _schemas.op_signature_from_function.cache_info()
    assert again.misses == signed.misses and again.hits > signed.hits
    assert utils._materialize_cpp_cia_ops.cache_info().misses == 1


def test_a_file_exported_once_serves_both_runtimes(integers, tmp_path):
    quantized, first = integers("onnxruntime")
    second = lower(quantized, runtime="openvino", to=tmp_path / "b", exported=first)
    assert second.model.read_bytes() == first.model.read_bytes()
    assert second.storage_bits == first.storage_bits
    assert any(kernel.precision == "int8" for kernel in second.kernels() if kernel.operator == "Convolution")


def test_a_file_that_holds_more_than_its_storage_bits_is_refused(tmp_path):
    graph = leanly.capture(nn.Linear(512, 256).eval(), example=torch.randn(2, 512))
    artifact = leanly.lower(graph, to=tmp_path / "a")
    claimed = {name: (8, count) for name, (_, count) in artifact.storage_bits.items()}
    with pytest.raises(LoweringError, match="weight should take 8 bits a value and lies in the file in float"):
        prove(replace(artifact, storage_bits=claimed), graph)


class Tokens(nn.Module):
    """Linear layers between tokens, which ONNX Runtime multiplies as matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x))))).mean(1)


def test_signs_between_floats_are_multiplied_in_float(tmp_path):
    torch.manual_seed(0)
    graph = Binary(activations=32)(leanly.capture(Tokens().eval(), example=torch.randn(2, 7, 32)))
    artifact = lower(graph, runtime="onnxruntime", to=tmp_path / "a")
    kernels = [kernel for kernel in artifact.kernels() if "MatMul" in kernel.operator]
    assert artifact.precision == "float32" and kernels and all(kernel.precision == "float32" for kernel in kernels)


def test_a_network_in_training_is_lowered_as_it_evaluates(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)).train()
    graph, x = leanly.capture(model, example=torch.randn(2, 9)), torch.randn(5, 9)
    assert graph.training
    for runtime in ("onnxruntime", "openvino"):
        artifact = lower(graph, runtime=runtime, to=tmp_path / runtime)
        given = open_artifact(artifact, threads=1)(x)
        torch.testing.assert_close(torch.as_tensor(given), model.eval()(x).detach())
    assert graph.training

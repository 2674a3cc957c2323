"""One predictor over every runtime: structures, checks, threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, LeanlyWarning, SettingError
from leanly.lowering import lower
from leanly.runtimes import open_artifact
from leanly.runtimes.torch import compiler_found


class TwoIn(nn.Module):
    """Keyword inputs, a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        h = (self.table(ids) * weight.unsqueeze(-1)).sum(1)
        return {"logits": self.out(h), "hidden": h}


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def predictor(request, tmp_path_factory):
    torch.manual_seed(0)
    model = TwoIn().eval()
    example = {"ids": torch.randint(0, 50, (2, 7)), "weight": torch.rand(2, 7)}
    graph = leanly.capture(model, example=example, dynamic={"ids": {1: "length"}, "weight": {1: "length"}})
    artifact = lower(graph, runtime=request.param, to=tmp_path_factory.mktemp(request.param) / "a")
    return model, open_artifact(artifact, threads=2)


@pytest.mark.parametrize("length", [3, 7, 20])
def test_keywords_in_dict_out_any_length(predictor, length):
    model, run = predictor
    given = {"ids": torch.randint(0, 50, (4, length)), "weight": torch.rand(4, length)}
    found = run(**given)
    assert list(found) == ["logits", "hidden"]
    for name, value in model(**given).items():
        assert torch.allclose(found[name], value, atol=1e-5)


def test_many_threads_get_their_own_answers(predictor):
    model, run = predictor
    inputs = [{"ids": torch.randint(0, 50, (1 + i % 4, 7)), "weight": torch.rand(1 + i % 4, 7)} for i in range(64)]
    with torch.no_grad():
        expected = [model(**given)["logits"].numpy() for given in inputs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda given: run(**given)["logits"].numpy().copy(), inputs))
    for want, have in zip(expected, found, strict=True):
        np.testing.assert_allclose(have, want, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ids": np.zeros((2, 7), np.float32), "weight": np.zeros((2, 7), np.float32)}, "ids is float32"),
        ({"ids": np.zeros((2, 7), np.int64), "weight": np.zeros((2, 6), np.float32)}, "weight has 6 in dimension 1"),
        ({"ids": np.zeros((2, 7, 1), np.int64), "weight": np.zeros((2, 7), np.float32)}, "ids has 3 dimensions"),
        ({"ids": np.zeros((0, 7), np.int64), "weight": np.zeros((0, 7), np.float32)}, "ids is empty"),
        ({"ids": np.zeros((2, 7), np.int64)}, "the call has"),
    ],
)
def test_what_does_not_fit_is_named(predictor, given, words):
    with pytest.raises(DataError, match=words):
        predictor[1](**given)


def test_no_compiler_runs_eager_and_says_so(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    monkeypatch.setattr("leanly.runtimes.torch.compiler_found", lambda: False)
    with pytest.warns(LeanlyWarning, match="C\\+\\+ compiler"):
        artifact = lower(leanly.capture(model, example=(torch.randn(2, 4),)), runtime="torch", to=tmp_path / "a")
    assert {kernel.implementation for kernel in artifact.kernels()} == {"eager"}


def test_unknown_runtime_is_named(predictor):
    import dataclasses

    with pytest.raises(SettingError, match="unknown runtime 'coreml'"):
        open_artifact(dataclasses.replace(predictor[1].artifact, runtime="coreml"))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler imports it
def test_torch_compiles_and_tells_the_dtypes_it_saw(tmp_path):
    if not compiler_found():
        pytest.skip("no C++ compiler here")
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1)).eval()
    x = torch.randn(5, 4)
    artifact = lower(leanly.capture(model, example=(x[:2],)), runtime="torch", to=tmp_path / "a", precision="bfloat16")
    assert {kernel.implementation for kernel in artifact.kernels()} == {"torch.compile"}
    precisions = {kernel.operator: kernel.precision for kernel in artifact.kernels()}
    assert precisions["linear"] == "bfloat16"
    whole = lower(leanly.capture(model, example=(x[:2],)), runtime="torch", to=tmp_path / "b", eager=True)
    assert {kernel.precision for kernel in whole.kernels()} == {"float32"}
    assert torch.allclose(open_artifact(artifact)(x), model(x), atol=0.02)

"""Walks over rows: what is no number is refused by every pass, and the batch may stand behind the length."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import leanly
from leanly.errors import DataError
from leanly.quantize import GPTQ, Binary, CorrectBias, Mixed, Reconstruct, Smooth, Static, WeightsOnly
from leanly.quantize.walking import Walk
from tests.once import once
from tests.quantize.networks import inputs_of, residual


class Lengths(nn.Module):
    """Two layers, the batch second or first inside."""

    def __init__(self, *, turned: bool) -> None:
        super().__init__()
        self.turned = turned
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.turned:
            return self.second(self.first(x.transpose(0, 1)).relu()).transpose(0, 1)
        return self.second(self.first(x).relu())


@once
def lengths(*, turned: bool) -> tuple[leanly.graph.Graph, leanly.Task, torch.Tensor]:
    model, x = Lengths(turned=turned).eval(), torch.randn(100, 6, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(100, 6, 4)), metric="mse")
    return leanly.capture(model, example=x[:2]), task, x


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize(
    "method", [CorrectBias(), Reconstruct(unit="layer", iterations=300, drop=0.0)], ids=["bias", "layers"]
)
def test_the_batch_may_stand_behind_the_length(method, turned):
    graph, task, x = lengths(turned=turned)
    rough = Static(weights=3)(graph, task)
    done = method(rough, task)
    with torch.no_grad():
        before, after = ((quantized(x) - graph(x)).square().mean() for quantized in (rough, done))
    assert after < before


def test_columns_are_weighed_alike_wherever_the_batch_stands():
    weights = []
    for turned in (True, False):
        graph, task, _ = lengths(turned=turned)
        weights.append(GPTQ(samples=90)(Static(weights=3)(graph, task), task).state_dict()["first.weight"])
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "method",
    [GPTQ(), Mixed(average=None, choices=(3, 8)), Binary(), Reconstruct(iterations=300)],
    ids=lambda one: type(one).__name__,
)
def test_rows_may_differ_in_length(method):
    """The same places, in 96 rows of 6, or in some of 6 and some of 12, teach the same."""
    torch.manual_seed(0)
    layers = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    model, x = nn.Sequential(*layers).eval(), torch.randn(96, 6, 8)
    graph = leanly.capture(model, example=x[:2], dynamic={"input": {1: "length"}})
    parts = [*x[:40].split(16), *x[40:].reshape(28, 12, 8).split(8)]
    batches = DataLoader([(part, torch.zeros(len(part))) for part in parts], batch_size=None)
    found, lost = [], []
    for train in ((x, torch.zeros(96)), batches):
        task = leanly.Task(model, example=x[:2], train=train, metric="mse")
        rough = Static(weights=3)(graph, task)
        found.append(method(rough if isinstance(method, GPTQ | Reconstruct) else graph, task))
        with torch.no_grad():
            lost.append([(quantized(x) - graph(x)).square().mean() for quantized in (rough, found[-1])])
    if isinstance(method, GPTQ):
        assert torch.equal(*(quantized.state_dict()["2.weight"] for quantized in found))
    elif isinstance(method, Mixed):
        assert found[0].notes == found[1].notes
    elif isinstance(method, Reconstruct):
        assert all(after < before for before, after in lost)
    else:
        assert all(tensor.isfinite().all() for tensor in found[1].state_dict().values())


def test_values_of_rows_of_any_length_are_held():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    parts = [torch.randn(rows, length, 8) for rows, length in ((9, 3), (4, 6), (5, 3), (6, 9))]
    batches = DataLoader([(part, torch.zeros(len(part))) for part in parts], batch_size=None)
    task = leanly.Task(model, example=parts[0], train=batches, metric="mse")
    graph = leanly.capture(model, example=parts[0], dynamic={"input": {1: "length"}})
    quantized = Static()(graph, task)
    (stop,) = list(Walk(quantized, task, 24, "Test", floats=quantized))[1:]
    assert len(stop.exact) == len(parts)
    for part, held in zip(parts, stop.exact, strict=True):
        torch.testing.assert_close(held, model[1](model[0](part)))


@pytest.mark.parametrize(
    "method",
    [Static(), Mixed(), Smooth(), Binary(), CorrectBias(), Reconstruct(iterations=1), GPTQ()],
    ids=lambda one: type(one).__name__,
)
def test_what_is_no_number_is_refused_with_its_row(method):
    graph, task = residual()
    inputs, targets = inputs_of(task).clone(), torch.zeros(96, 5)
    inputs[21, 1] = float("nan")
    bad = leanly.Task(task.model, example=inputs[:2], train=(inputs, targets), metric="mse")
    given = Static()(graph, task) if isinstance(method, CorrectBias | Reconstruct | GPTQ) else graph
    with pytest.raises(DataError, match=r"NaN or infinity in row 21. Where: split 'train', batch"):
        method(given, bad)


def test_rows_of_another_dtype_are_refused():
    graph, task = residual()
    x = inputs_of(task)
    odd = leanly.Task(task.model, example=x[:2], train=(x.double(), torch.zeros(96, 5)), metric="mse")
    with pytest.raises(DataError, match=r"is float64, and the graph takes float32. Where: split 'train'"):
        Static()(graph, odd)


class Overflows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(torch.relu(self.two(torch.exp(200 * self.one(x)))))


@pytest.mark.parametrize("method", [Smooth(), CorrectBias(), GPTQ(), Reconstruct(iterations=2), Static()], ids=str)
def test_an_overflow_inside_the_network_is_named(method):
    torch.manual_seed(0)
    model, x = Overflows().eval(), torch.randn(64, 32)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 3))
    graph = leanly.capture(model, example=x[:2])
    given = graph if isinstance(method, Smooth | Static) else WeightsOnly()(graph)
    with pytest.raises(DataError, match=r"NaN or infinity while calibrating\. Where: exp, calibration"):
        method(given, task)


def test_values_next_to_the_largest_float_are_refused():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval(), torch.full((8, 4), 3.3e38)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(8) % 3))
    with pytest.raises(DataError, match=r"a value of 1e\+38 or more in row 0"):
        Static()(leanly.capture(model, example=x[:2]), task)

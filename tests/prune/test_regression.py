"""SparseGPT: as many zeros as asked for, where they should be, and outputs nearer than by magnitude alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, SettingError
from leanly.graph import capture, sweeping
from leanly.prune import Sparse, SparseGPT, regression
from tests.once import once
from tests.prune.surgery import scrambled

WEIGHTS = ("0.weight", "3.weight", "6.weight")


@once
def case(groups: int = 1) -> tuple[leanly.Graph, leanly.Task]:
    layers = [
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=groups), nn.ReLU(), nn.Flatten(),
    ]  # fmt: skip
    model = scrambled(nn.Sequential(*layers, nn.Linear(128, 5))).eval()
    # inputs that go together: what one weight loses another can make up for
    x = torch.randn(200, 2, 8, 8).repeat_interleave(2, 1) + 0.3 * torch.randn(200, 4, 8, 8)
    return capture(model, example=x[:2]), leanly.Task(model, example=x[:2], train=(x, torch.arange(200) % 5))


def moved(graph: leanly.Graph, other: leanly.Graph, task: leanly.Task) -> float:
    split = task.split("train")
    assert split is not None
    inputs, _ = next(iter(split.flat_batches(200, 200)))
    with torch.no_grad():
        return float((graph.flat(*inputs)[0] - other.flat(*inputs)[0]).square().mean())


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("sparsity", [0.3, 0.6])
def test_outputs_stay_nearer_than_by_magnitude(sparsity: float, groups: int) -> None:
    graph, task = case(groups)
    ours, plain = SparseGPT(sparsity)(graph, task), Sparse(sparsity)(graph)
    for name in WEIGHTS:
        share = float((ours.state_dict()[name] == 0).float().mean())
        assert share == pytest.approx(sparsity, abs=0.05), name
    assert moved(graph, ours, task) < 0.6 * moved(graph, plain, task)
    assert not bool((graph.state_dict()["0.weight"] == 0).any())


def test_of_every_four_inputs_two_stay() -> None:
    graph, task = case()
    ours, plain = SparseGPT(pattern=(2, 4))(graph, task), Sparse(pattern=(2, 4))(graph)
    for name in WEIGHTS:
        weight = ours.state_dict()[name].movedim(1, -1)
        assert bool(((weight.reshape(*weight.shape[:-1], -1, 4) != 0).sum(-1) == 2).all())
    assert moved(graph, ours, task) < 0.7 * moved(graph, plain, task)


def test_one_weight_leaves_as_the_surgeon_takes_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 3) @ torch.randn(3, 3)
    model = nn.Linear(3, 1, bias=False).eval()
    graph, task = capture(model, example=x[:2]), leanly.Task(model, example=x[:2], train=(x, torch.zeros(500, 1)))
    found = SparseGPT(0.34, samples=500, damping=1e-9)(graph, task).state_dict()["weight"][0].double()
    gone = int((found == 0).nonzero())
    weight = model.weight.detach()[0].double()
    # of its column only the ones behind it move: those before are fixed already
    rest = torch.linalg.inv((x.T @ x).double()[gone:, gone:])
    expected = weight.clone()
    expected[gone:] -= weight[gone] / rest[0, 0] * rest[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dense_layers_stay_and_data_are_asked_for() -> None:
    graph, task = case()
    ours = SparseGPT(0.5, dense=("linear",))(graph, task)
    assert torch.equal(ours.state_dict()["6.weight"], graph.state_dict()["6.weight"])
    with pytest.raises(DataError, match="there are none"):
        SparseGPT(0.5)(graph)
    with pytest.raises(SettingError, match=r"8 does not divide the inputs: 4 of conv2d.*dense=\('conv2d'"):
        SparseGPT(pattern=(4, 8))(graph, task)


@pytest.mark.parametrize("wrong", [{}, {"sparsity": 1.0}, {"sparsity": 0.5, "damping": 0}, {"pattern": (4, 4)}])
def test_what_is_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(SettingError, match="SparseGPT"):
        SparseGPT(**wrong)


def test_a_weight_that_is_read_again_is_seen_as_it_has_become(monkeypatch: pytest.MonkeyPatch) -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three, self.head = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(3):
                x = x + self.two(torch.relu(self.one(x)))
            return self.head(torch.relu(self.three(x)))

    torch.manual_seed(0)
    model, x = Again().eval(), torch.randn(64, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.zeros(64, dtype=torch.long)))
    found = []
    for largest in (sweeping.LARGEST, -1):
        monkeypatch.setattr(sweeping, "LARGEST", largest)
        found.append(SparseGPT(0.5)(capture(model, example=x[:2]), task)(x))
    assert torch.equal(*found)


def test_what_a_block_loses_is_made_up_for_at_once_or_column_by_column(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rows, inputs = torch.randn(6, 40, dtype=torch.float64), torch.randn(40, 200, dtype=torch.float64)
    found = []
    for block in (4, 12, 64):
        monkeypatch.setattr(regression, "BLOCK", block)
        found.append(SparseGPT(pattern=(2, 4))._thinned(rows, inputs @ inputs.T))
    assert torch.allclose(found[0], found[1]) and torch.allclose(found[0], found[2])
    assert bool((found[0].reshape(6, 10, 4) != 0).sum(2).eq(2).all())

"""Layers whose weight is `[inputs, outputs]`, as GPT-2's, are judged, thinned and refitted like linear ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import leanly
from leanly.graph import Graph
from leanly.prune import (
    Channels,
    Refit,
    Sparse,
    SparseGPT,
    activation_entropy,
    fisher,
    geometric_median,
    second_order,
    weight_entropy,
)


class Products(nn.Module):
    """The same network with linear layers and with products of matrices, one of them without a bias."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat = flat
        self.first, self.last = nn.Linear(12, 24), nn.Linear(24, 6, bias=False)
        if flat:
            for layer in (self.first, self.last):
                layer.weight = nn.Parameter(layer.weight.detach().T.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        if not self.flat:
            return self.last(torch.relu(self.first(x))).mean(1)
        rows = torch.relu(torch.addmm(self.first.bias, x.view(-1, 12), self.first.weight))
        return (rows.view(-1, 5, 24) @ self.last.weight).mean(1)


def case(flat: bool) -> tuple[Graph, leanly.Task]:
    torch.manual_seed(0)
    model, x = Products(flat).eval(), torch.randn(64, 5, 12)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 6))
    return leanly.capture(model, example=x[:2]), task


@pytest.mark.parametrize("criterion", [fisher, activation_entropy, geometric_median, weight_entropy, second_order])
def test_criteria_say_the_same_of_both(criterion) -> None:
    usual, flat = (criterion(*case(kind)) for kind in (False, True))
    for name in ("first.weight", "last.weight"):
        torch.testing.assert_close(flat[name].T.double(), usual[name].double(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "thin", [Sparse(sparsity=0.6), Sparse(pattern=(2, 4)), SparseGPT(sparsity=0.6), SparseGPT(pattern=(2, 4))]
)
def test_the_same_weights_become_zero(thin) -> None:
    usual, flat = (thin(*case(kind)).state_dict() for kind in (False, True))
    for name in ("first.weight", "last.weight"):
        torch.testing.assert_close(flat[name].T, usual[name], rtol=1e-4, atol=1e-5)
        assert float((flat[name] == 0).float().mean()) > 0.4


def test_what_a_cut_took_is_made_up_for() -> None:
    states = []
    for kind in (False, True):
        graph, task = case(kind)
        small = Channels(fraction=0.25)(graph)
        fitted = Refit()(small, task)
        x = torch.randn(50, 5, 12)
        errors = [float((one(x) - graph(x)).detach().square().mean()) for one in (small, fitted)]
        assert errors[1] < 0.7 * errors[0] and not any("Refit left" in note for note in fitted.notes)
        states.append(fitted.state_dict())
    torch.testing.assert_close(states[1]["last.weight"].T, states[0]["last.weight"], rtol=1e-3, atol=1e-4)

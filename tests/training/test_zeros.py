"""Zeros of a weight while it trains: as many all along, where they are or where they cost least."""

from __future__ import annotations

import torch
from torch import nn

import leanly
from leanly.distill import Distill
from leanly.training import Settings

X = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
NEEDED = [2, 5, 11]


def taught(**settings) -> torch.Tensor:
    """Return the weights that a sum of three inputs teaches to a layer that begins with three others."""
    truth, model = nn.Linear(16, 1, bias=False), nn.Linear(16, 1, bias=False)
    with torch.no_grad():
        truth.weight.zero_()[0, NEEDED] = torch.tensor([1.0, -2.0, 1.5])
        model.weight.zero_()[0, [0, 1, 3]] = 0.1
        targets = truth(X)
    task = leanly.Task(
        model.eval(), example=X[:2], train=(X, targets), validation=(X, targets), metric="mse", loss="mse"
    )
    how = Settings(batch_size=16, learning_rate=0.02, weight_decay=0.0, keep_zeros=True, **settings)
    graph = leanly.capture(model, example=X[:2])
    return Distill(epochs=20, alpha=0.0, settings=how)(graph, task).state_dict()["weight"]


def test_zeros_move_to_where_they_cost_nothing():
    found = taught(regrow=True)
    assert found.nonzero()[:, 1].tolist() == NEEDED
    torch.testing.assert_close(found[0, NEEDED], torch.tensor([1.0, -2.0, 1.5]), atol=0.05, rtol=0)
    assert taught(regrow=False).nonzero()[:, 1].tolist() == [0, 1, 3], "without it they stay"

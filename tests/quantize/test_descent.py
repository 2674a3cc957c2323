"""Descent: a step is the same however many rows run at once."""

from __future__ import annotations

import pytest
import torch

from leanly.quantize.descent import Descent


@pytest.mark.parametrize("at_once", [3, 8])
def test_how_many_rows_run_at_once_changes_no_step(at_once: int) -> None:
    rows, weight = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.ones(5, requires_grad=True)
    descent = Descent(lambda some: (rows[some] @ weight).square().mean(), [torch.arange(20)], 8, at_once)
    torch.manual_seed(0)
    descent.step(torch.optim.SGD([weight], lr=0.1), weight.sum())
    torch.manual_seed(0)
    drawn = rows[torch.randint(20, (8,))]
    gradient = 2 * (drawn.T @ drawn @ torch.ones(5)) / 8 + 1
    torch.testing.assert_close(weight.detach(), 1 - 0.1 * gradient)


def test_the_rows_of_a_step_are_alike_and_all_are_drawn() -> None:
    alike, drawn = [torch.arange(6), torch.arange(6, 24)], []
    weight = torch.ones((), requires_grad=True)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        drawn.append(rows)
        return weight * 0

    descent = Descent(loss, alike, 8, 8)
    torch.manual_seed(0)
    for _ in range(200):
        descent.step(torch.optim.SGD([weight], lr=0.1))
    assert all(int(rows.max()) < 6 or int(rows.min()) >= 6 for rows in drawn)
    assert torch.cat(drawn).unique().tolist() == list(range(24))
    few = sum(int(rows.max()) < 6 for rows in drawn)
    assert 25 <= few <= 75  # a quarter of the rows

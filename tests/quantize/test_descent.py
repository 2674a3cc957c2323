"""Descent: a step is the same however many rows run at once."""

from __future__ import annotations

import pytest
import torch

from leanly.quantize.descent import Descent


@pytest.mark.parametrize("at_once", [3, 8])
def test_how_many_rows_run_at_once_changes_no_step(at_once: int) -> None:
    rows, weight = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)), torch.ones(5, requires_grad=True)
    descent = Descent(lambda some: (rows[some] @ weight).square().mean(), 20, 8, at_once)
    torch.manual_seed(0)
    descent.step(torch.optim.SGD([weight], lr=0.1), weight.sum())
    torch.manual_seed(0)
    drawn = rows[torch.randint(20, (8,))]
    gradient = 2 * (drawn.T @ drawn @ torch.ones(5)) / 8 + 1
    torch.testing.assert_close(weight.detach(), 1 - 0.1 * gradient)

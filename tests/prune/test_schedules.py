"""Schedules: the last step is what was asked for, and the steps together are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import leanly
from leanly.errors import SettingError
from leanly.prune import Channels, Sparse, gradual, iterative

SHARES = st.floats(0.01, 0.99)


@given(SHARES, st.integers(1, 20), st.floats(0, 0.9))
def test_gradual_rises_by_less_and_less_to_what_was_asked(sparsity: float, steps: int, part: float) -> None:
    start = part * sparsity
    found = gradual(sparsity, steps, start)
    assert len(found) == steps and found[-1] == pytest.approx(sparsity)
    rises = [after - before for before, after in zip((start, *found), found, strict=False)]
    assert all(rise > 0 for rise in rises) and rises == sorted(rises, reverse=True)


@given(SHARES, st.integers(1, 20))
def test_iterative_cuts_take_the_share_together(share: float, steps: int) -> None:
    left = 1.0
    for cut in iterative(share, steps):
        left *= 1 - cut
    assert left == pytest.approx(1 - share)


def test_passes_follow_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    graph = leanly.capture(model, example=torch.randn(2, 16))
    for sparsity in gradual(0.9, 3):
        sparse = Sparse(sparsity)(graph)
        zeros = (dict(sparse.named_parameters())["2.weight"] == 0).float().mean().item()
        assert zeros == pytest.approx(sparsity, abs=1e-3)
    small, whole = graph, graph.cost().macs
    for share in iterative(0.6, 3):
        small = Channels(macs=share)(small)
    assert small.cost().macs == pytest.approx(0.4 * whole, rel=0.1)


@pytest.mark.parametrize(
    "wrong", [lambda: gradual(1.0, 3), lambda: gradual(0.5, 0), lambda: gradual(0.5, 3, 0.5), lambda: iterative(0, 2)]
)
def test_what_is_out_of_range_is_refused(wrong) -> None:
    with pytest.raises(SettingError):
        wrong()

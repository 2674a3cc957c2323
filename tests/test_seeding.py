from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from leanly.seeding import reseed, seed_of


def drawn() -> tuple[float, float, float]:
    return torch.rand(()).item(), random.random(), np.random.rand()  # noqa: NPY002


def test_what_is_drawn_follows_from_the_parts_alone() -> None:
    reseed(3, "step", 1, 2)
    first, later = drawn(), drawn()
    reseed(3, "step", 1, 3)
    assert not {*first} & {*drawn()}
    reseed(3, "step", 1, 2)
    assert (drawn(), drawn()) == (first, later)
    torch.manual_seed(seed_of(3, "step", 1, 2))
    assert torch.rand(()).item() == first[0]


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="CUDA is in use")
def test_a_device_that_is_not_in_use_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(seed: int) -> None:
        raise AssertionError(seed)

    monkeypatch.setattr(torch.cuda, "manual_seed_all", called)
    reseed(3)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(AssertionError, match=str(seed_of(3))):
        reseed(3)

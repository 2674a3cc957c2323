"""The real instruments on a tiny network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import LeanlyWarning
from leanly.search.instruments import Bench


def test_a_network_that_says_the_same_for_every_row_is_warned_of(tmp_path: Path) -> None:
    model = nn.Linear(6, 3).eval()
    with torch.no_grad():
        model.weight.zero_()
    x = torch.randn(60, 6)
    task = leanly.Task(model, example=x[:2], validation=(x, torch.arange(60) % 3))
    artifact = leanly.lower(leanly.capture(model, example=x[:2]), runtime="onnxruntime", to=tmp_path / "a")
    with Bench(task, leanly.Target("cpu", threads=1, batch_sizes=(1,)), leanly.Budget(max_drop="1%")) as bench:
        with pytest.warns(LeanlyWarning, match="predicts the same for all 60 rows of 'validation'"):
            bench.measure(artifact, None, 0.1)
        bench.measure(artifact, artifact, 0.1)

"""Predictions that say the same for every row are told from those that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import leanly
from leanly.measurement.constancy import says_the_same
from leanly.measurement.cut import examine_cut
from leanly.metrics import Metric, resolve_metric
from leanly.prune import magnitude

ACCURACY = resolve_metric("accuracy")
OWN = Metric("own", lambda predictions, targets: 0.0)
LOGITS = np.array([[0.1, 2.0, 0.3], [0.5, 1.0, -1.0]])


@pytest.mark.parametrize(
    "predictions, metric, same",
    [
        (LOGITS, ACCURACY, True),
        (LOGITS, OWN, False),
        (LOGITS[:, ::-1].copy() * [[1, 1, 1], [9, 1, 1]], ACCURACY, True),
        (np.array([[0.0, 1.0], [1.0, 0.0]]), ACCURACY, False),
        (np.array([1, 1, 1]), ACCURACY, True),
        (np.array([1, 2, 1]), ACCURACY, False),
        ({"a": LOGITS[:1].repeat(4, 0)}, OWN, True),
        ((LOGITS[:1].repeat(4, 0), np.arange(4)), OWN, False),
        (LOGITS[:1], ACCURACY, False),
        (np.array([[-0.5], [-2.0]]), ACCURACY, True),
        (np.array([-0.5, -2.0]), ACCURACY, True),
        (np.array([[-0.5], [2.0]]), ACCURACY, False),
        (np.array([-0.5, -2.0]), OWN, False),
    ],
)
def test_rows_that_are_predicted_alike(predictions: object, metric: Metric, same: bool) -> None:
    assert says_the_same(predictions, metric) is same


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_cut_of_such_a_network_notes_it(scale: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3).eval()
    with torch.no_grad():
        model.weight.mul_(scale)
    x = torch.randn(60, 6)
    task = leanly.Task(model, example=x[:2], validation=(x, torch.arange(60) % 3))
    graph = leanly.capture(model, example=x[:2])
    notes = examine_cut(graph, graph, task, [magnitude]).notes
    assert any("predicts the same" in note for note in notes) == (scale == 0)

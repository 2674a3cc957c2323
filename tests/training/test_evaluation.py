import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError
from leanly.training.evaluation import evaluate, outputs_of
from tests.training.models import image_task


def test_it_is_the_metric_of_the_module_in_evaluation_mode():
    task = image_task(p=0.5, rows=300)
    graph = leanly.capture(task.model, example=task.example).train()
    split = task.split("train")
    x, y = task.train
    with torch.no_grad():
        expected = (task.model(x).argmax(1) == y).float().mean()
    assert evaluate(graph, task, split) == pytest.approx(float(expected)) and graph.training
    assert outputs_of(graph, split)[0].shape == (300, 3)


def test_rows_of_other_lengths_are_told():
    class Words(nn.Module):
        def forward(self, x):
            return x * 2

    x = [(torch.rand(size), 0) for size in [4] * 128 + [5] * 128]
    task = leanly.Task(
        Words().eval(), example={"x": torch.rand(2, 4)}, dynamic={"x": {1: "length"}},
        train=[({"x": row}, y) for row, y in x],
    )  # fmt: skip
    graph = leanly.capture(task.model, example=task.example, dynamic=task.dynamic)
    with pytest.raises(DataError, match="output output has other shapes in other batches"):
        outputs_of(graph, task.split("train"))

import pytest
import torch
from torch import nn

import leanly
from leanly import distill, prune, quantize
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


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.one(a) - 2 * self.other(b)


@pytest.mark.parametrize(
    "use",
    [
        lambda graph, task: evaluate(graph, task, task.split("train")),
        lambda graph, task: quantize.Static()(graph, task),
        lambda graph, task: quantize.Static(draw=1)(graph, task),
        lambda graph, task: prune.Refit(teacher=graph)(leanly.capture(task.model, example=task.example), task),
        lambda graph, task: prune.SparseGPT(sparsity=0.5)(graph, task),
        lambda graph, task: distill.Distill(epochs=1)(graph, task),
    ],
)
def test_inputs_in_another_order_are_refused(use):
    a, b = torch.randn(2, 16, 3)
    model = Two().eval()
    task = leanly.Task(model, example={"a": a[:2], "b": b[:2]}, train=({"a": a, "b": b}, torch.arange(16) % 4))
    turned = leanly.capture(model, example={"b": b[:2], "a": a[:2]})
    with pytest.raises(DataError, match=r"rows give a, b and the graph takes b, a: another order.*Task\.example"):
        use(turned, task)
    use(leanly.capture(model, example=task.example), task)

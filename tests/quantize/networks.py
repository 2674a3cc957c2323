"""Small networks with tasks, for what rounds their weights."""

from __future__ import annotations

import torch
from torch import nn

import leanly
from leanly.graph import Graph
from leanly.graph.quantizer import of_weight
from leanly.quantize.quantizers import read_affine
from leanly.task import Task
from tests.once import once


class Residual(nn.Module):
    """A stem, a residual block with a grouped convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.norm = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))
        return self.head(x.mean((2, 3)))


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 24, bias=False), nn.Linear(24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))


@once
def residual() -> tuple[Graph, Task]:
    model, x = Residual().eval(), torch.randn(96, 3, 8, 8)
    return leanly.capture(model, example=(x[:2],)), Task(model, example=(x[:2],), train=(x, torch.arange(96) % 5))


@once
def perceptron() -> tuple[Graph, Task]:
    """Its inputs hang together, as those of real layers do."""
    torch.manual_seed(1)
    model, x = Perceptron().eval(), torch.randn(200, 4) @ torch.randn(4, 16) + 0.3 * torch.randn(200, 16)
    return leanly.capture(model, example=(x[:2],)), Task(model, example=(x[:2],), train=(x, torch.arange(200) % 6))


class OfAll(nn.Module):
    """The second convolution reads what all rows have in common: one image, without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.common, self.own = nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = self.own(x) * torch.sigmoid(8 * self.common(x.mean(0)))
        return self.head(x.mean((2, 3)))


@once
def of_all() -> tuple[Graph, Task]:
    torch.manual_seed(2)
    model, x = OfAll().eval(), torch.randn(96, 3, 8, 8)
    return leanly.capture(model, example=(x[:2],)), Task(model, example=(x[:2],), train=(x, torch.arange(96) % 4))


def inputs_of(task: Task) -> torch.Tensor:
    split = task.split("train")
    assert split is not None
    return next(split.flat_batches(len(split)))[0][0]


def error(graph: Graph, other: Graph, task: Task) -> float:
    """Return the mean squared difference of the outputs."""
    x = inputs_of(task)
    with torch.no_grad():
        return float((graph(x) - other(x)).square().mean())


def off_grid(graph: Graph) -> float:
    """Return how far, in steps, weights lie from their integers at most."""
    far = 0.0
    for node in graph.module.graph.nodes:
        if of_weight(node):
            affine = read_affine(graph.module, node)
            weight = graph.module.get_parameter(str(node.args[0].target)).detach()
            scale, _ = affine.along(weight)
            far = max(far, float(((affine.dequantize(affine.quantize(weight)) - weight) * scale).abs().max()))
    return far

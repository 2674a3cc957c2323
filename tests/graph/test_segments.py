"""Segments: run one after the other they are the graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import Node

import leanly
from leanly.graph import Graph
from leanly.graph.nodes import argument_names
from leanly.graph.segments import Runner, find_segments


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.two(torch.relu(self.one(x))))
        return self.head(x.mean((2, 3)))


class Masked(nn.Module):
    """Every layer reads the mask: what follows from the inputs alone holds no cut up."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        weight = mask[:, :, None].float()
        for layer in self.layers:
            x = x + layer(x) * weight
        return x.sum(1)


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.head(self.one(a) + self.two(b))


def weighted(node: Node) -> bool:
    return node.op == "call_function" and "weight" in argument_names(node)


def captured(model: nn.Module, *inputs: torch.Tensor) -> Graph:
    return leanly.capture(model.eval(), example=inputs)


MASKED = (torch.randint(0, 11, (2, 6)), torch.ones(2, 6, dtype=torch.int64))


@pytest.mark.parametrize(
    ("model", "inputs", "count"),
    [
        (Residual(), (torch.randn(2, 3, 8, 8),), 3),
        (Masked(), MASKED, 4),
        (Towers(), (torch.randn(2, 4), torch.randn(2, 4)), 3),
    ],
    ids=["residual", "masked", "towers"],
)
def test_segments_in_a_row_are_the_graph(model: nn.Module, inputs: tuple[torch.Tensor, ...], count: int) -> None:
    graph = captured(model, *inputs)
    segments = find_segments(graph, starts=weighted, counts=weighted)
    assert len(segments) == count
    runner, value = Runner(graph.module), None
    batch = graph.example_batch(5)
    for segment in segments:
        given = {} if value is None else {segment.entry: value}
        value = runner.part(segment.nodes, batch, given, segment.exit)
    assert value is not None
    torch.testing.assert_close(value, graph.flat(*batch)[0])


def test_each_starts_where_the_last_one_ended() -> None:
    graph = captured(Residual(), torch.randn(2, 3, 8, 8))
    segments = find_segments(graph, starts=weighted, counts=weighted)
    assert [segment.entry for segment in segments] == ["", *(segment.exit for segment in segments[:-1])]


def test_a_value_can_be_put_in_place_of_a_node() -> None:
    graph = captured(Residual(), torch.randn(2, 3, 8, 8))
    (first, *_) = find_segments(graph, starts=weighted, counts=weighted)
    zeros = Runner(graph.module, lambda node, running: torch.zeros(2, 4, 8, 8) if weighted(node) else None)
    assert zeros.part(first.nodes, graph.example, {}, first.exit).abs().max() == 0

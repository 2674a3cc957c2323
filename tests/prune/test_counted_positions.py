"""Positions that `forward` computes from numbers it counts out, and tables whose rows are put in bags."""

import math

import pytest
import torch
from torch import nn

from leanly.graph import Graph, capture
from leanly.prune import Channels
from tests.prune.surgery import differs, operate, same, scrambled, zeroed


class Sinusoids(nn.Module):
    """The positions of Vaswani et al. 2017, made anew in every call; without norms, so that a cut is exact."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Embedding(50, width)
        self.up, self.down = nn.Linear(width, 64), nn.Linear(64, width)
        self.head = nn.Linear(width, 5)

    def forward(self, ids):
        rates = torch.exp(torch.arange(0, self.width, 2) * (-math.log(1e4) / self.width))
        angles = torch.arange(ids.shape[1])[:, None] * rates
        positions = torch.zeros(ids.shape[1], self.width)
        positions[:, 0::2], positions[:, 1::2] = angles.sin(), angles.cos()
        x = self.words(ids) + positions
        return self.head((x + self.down(self.up(x).relu())).amax(1))


class Bags(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(50, 16, mode=mode)
        self.layers = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))

    def forward(self, ids):
        return self.layers(self.words(ids))


@pytest.mark.parametrize("dynamic", [None, {"ids": {1: "length"}}])
def test_positions_follow_the_width(tmp_path, elsewhere, dynamic):
    ids = torch.randint(50, (3, 10))
    _, half = operate(Sinusoids(), ids, tmp_path, elsewhere, macs=None, lowered=True, dynamic=dynamic)
    assert len(half.kept["words.weight"][1]) == 16
    again = Channels(fraction=0.3)(half)
    assert len(_lists(again)) == len(_lists(half)), "a second cut reads a shorter list, not from a list of a list"


def _lists(graph: Graph) -> list[str]:
    return [node.name for node in graph.module.graph.nodes if str(node.target) == "aten.index_select.default"]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode: str):
    graph = capture(scrambled(Bags(mode)), example=torch.randint(50, (3, 7)))
    small = Channels(0.5)(graph)
    assert len(small.kept["words.weight"][1]) == 8
    differs(small, graph)
    same(small, zeroed(graph, small))

"""Sizes that are computed when the graph runs: heads beside rows in one dimension, and what a cut does to them."""

import torch
from torch import nn

from leanly.graph import capture
from leanly.prune import Channels
from tests.prune.surgery import differs, same, scrambled, zeroed


class HeadsInBatch(nn.Module):
    """Each head is a row of its own: `rows * heads` is computed, and is a product with a literal."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(12, 24) for _ in range(3))
        self.out, self.head = nn.Linear(24, 12), nn.Linear(12, 3)

    def forward(self, x):
        rows, tokens, _ = x.shape

        def split(y):
            return y.view(rows, tokens, 4, 6).transpose(1, 2).reshape(rows * 4, tokens, 6)

        scores = torch.bmm(split(self.query(x)), split(self.key(x)).transpose(1, 2)) * 6**-0.5
        mixed = torch.bmm(scores.softmax(-1), split(self.value(x)))
        mixed = mixed.view(rows, 4, tokens, 6).transpose(1, 2).reshape(rows, tokens, 24)
        return self.head(torch.relu(self.out(mixed)).mean(1))


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(24, 4, 32, batch_first=True, norm_first=True)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.layer(x + mixed).mean(1))


def test_a_computed_size_is_scaled():
    graph = capture(scrambled(HeadsInBatch()), example={"x": torch.randn(2, 7, 12)}, dynamic={"x": {1: "length"}})
    small = Channels(0.5)(graph)
    kept = small.kept["query.weight"][0]
    assert len(kept) == 12 and len(small.kept["out.weight"][1]) == 12
    assert torch.equal(kept.reshape(2, 6) % 6, torch.arange(6).expand(2, 6)), "whole heads"
    differs(small, graph)
    same(small, zeroed(graph, small))
    again = Channels(macs=0.4)(small)
    same(again, zeroed(graph, again))


def test_the_layers_of_torch_itself():
    graph = capture(scrambled(Torchs()), example=torch.randn(2, 7, 24))
    for settings in ({"fraction": 0.5}, {"macs": 0.3}):
        small = Channels(**settings, normalized=False)(graph)
        differs(small, graph)
        same(small, zeroed(graph, small))
        assert {"attention.in_proj_weight", "layer.linear1.weight"} & set(small.kept)
    half = Channels(0.5, normalized=False)(graph)
    assert {name: len(half.kept[name][0]) for name in ("attention.in_proj_weight", "layer.linear1.weight")} == {
        "attention.in_proj_weight": 36,
        "layer.linear1.weight": 16,
    }

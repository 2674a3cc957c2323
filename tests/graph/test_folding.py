"""Folding: a batch norm becomes part of its layer where all it does is stored; one whose scale is computed stays."""

from __future__ import annotations

import torch
from torch import nn

from leanly.graph import capture
from leanly.graph.folding import fold_batch_norm
from leanly.graph.norms import BATCH_NORM


class Computed(nn.Module):
    """One batch norm whose scale is computed, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.randn(8))
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("variance", torch.rand(8) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, variance = self.get_buffer("mean"), self.get_buffer("variance")
        return self.norm(self.two(nn.functional.batch_norm(self.one(x), mean, variance, self.scale.abs() + 0.5)))


def test_a_norm_whose_scale_is_computed_stays() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    graph = capture(Computed().eval(), example=x)
    folded = fold_batch_norm(graph)
    assert sum(node.target is BATCH_NORM for node in folded.module.graph.nodes) == 1
    torch.testing.assert_close(folded(x), graph(x))

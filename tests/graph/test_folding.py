"""Folding: a batch norm becomes part of its layer where all it does is stored; one whose scale is computed stays."""

from __future__ import annotations

import pytest
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


class SharedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.two.bias = self.one.bias
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norms[1](self.two(torch.relu(self.norms[0](self.one(x)))))


class LaterBias(nn.Module):
    """A layer without a bias, whose module has one that is added behind the batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 1, 1)), nn.Parameter(torch.randn(4))
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(nn.functional.conv2d(x, self.weight)) + self.bias.view(1, -1, 1, 1)


class ComputedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.layer.bias is not None
        return self.norm(nn.functional.conv2d(x, self.layer.weight, 2 * self.layer.bias))


@pytest.mark.parametrize("network", [SharedBias, LaterBias, ComputedBias])
def test_a_bias_that_others_read_keeps_its_values(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = network().eval(), torch.randn(5, 3, 4, 4)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.bias, -1, 1)
    graph = capture(model, example=x[:2])
    folded = fold_batch_norm(graph)
    left = sum(node.target is BATCH_NORM for node in folded.module.graph.nodes)
    assert left == (1 if network is ComputedBias else 0)
    torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-5)

"""Cuts: what is tried of a network, and what brings it back before it is taught."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.families.cuts import cuts
from leanly.graph import capture
from leanly.prune import Refit
from leanly.recipe import Recipe
from leanly.training import BatchNorm


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.two = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.two(torch.relu(self.norm(self.one(x)))))


def case() -> tuple[leanly.Graph, leanly.Task, torch.Tensor]:
    torch.manual_seed(0)
    blocks = [Block(16) for _ in range(4)]
    model = nn.Sequential(nn.Conv2d(3, 16, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    x = torch.randn(64, 3, 6, 6)
    return capture(model, example=x[:2]), leanly.Task(model, example=x[:2], train=(x, torch.arange(64) % 4)), x


def test_every_cut_comes_nearer_to_the_original_before_it_is_taught() -> None:
    graph, task, x = case()
    found = cuts(graph)
    assert {len(cut.passes) for cut in found} == {1, 2}, "layers, channels, and both"
    for cut in found:
        bare = Recipe(cut.passes)(graph, task)
        restored = Recipe(cut.restored)(bare, task)
        with torch.no_grad():
            before, after = ((small(x) - graph(x)).square().mean() for small in (bare, restored))
        assert cut.restored == (Refit(),) and restored.cost().macs == bare.cost().macs < graph.cost().macs
        assert after < before, cut.label


@pytest.mark.filterwarnings("ignore::leanly.errors.LeanlyWarning")
def test_what_can_not_be_refitted_gets_new_statistics() -> None:
    model = nn.Sequential(nn.ConvTranspose3d(3, 16, 2), nn.BatchNorm3d(16), nn.ConvTranspose3d(16, 3, 2)).eval()
    assert {cut.restored for cut in cuts(capture(model, example=torch.randn(2, 3, 4, 4, 4)))} == {(BatchNorm(),)}


def test_layers_that_can_not_be_refitted_get_new_statistics_beside_those_that_can() -> None:
    layers = [nn.Conv3d(3, 16, 1), nn.BatchNorm3d(16), nn.ReLU(), nn.Conv3d(16, 16, 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 4)).eval()
    found = cuts(capture(model, example=torch.randn(2, 3, 4, 4, 4)))
    assert {cut.restored for cut in found} == {(BatchNorm(), Refit())}

"""Sweep: the values of a graph whose weights change on the way are those of a graph that is run anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leanly.graph import capture, sweeping
from leanly.graph.layers import learned_layers
from leanly.graph.nodes import argument
from leanly.graph.sweeping import Sweep
from leanly.graph.watching import Inside


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.one, self.two, self.side, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = torch.relu(self.stem(x)) * self.scale
        start = start + self.two(torch.relu(self.one(start)))
        return self.head(start + self.side(x))


@pytest.mark.parametrize("largest", [sweeping.LARGEST, 0], ids=["kept", "too large to keep"])
def test_values_follow_weights_that_change_on_the_way(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "LARGEST", largest)
    torch.manual_seed(0)
    batches = [[torch.randn(5, 6)], [torch.randn(3, 6)]]
    graph = capture(Net().eval(), example=batches[0][0])
    sweep, seen = Sweep(graph, batches), 0
    for layer in learned_layers(graph):
        ahead = next(node for node in reversed(graph.module.graph.nodes) if node.op == "call_function")
        names = [argument(layer, "input").name, layer.name, ahead.name]
        anew = Inside(graph, names)
        for given, batch in zip(sweep.values(names, before=layer.name), batches, strict=True):
            assert all(torch.equal(one, other) for one, other in zip(given, anew(*batch), strict=True))
            seen += 1
        with torch.no_grad():
            graph.module.get_parameter(str(argument(layer, "weight").target)).mul_(1.5)
    assert seen == 2 * 5


def test_what_lies_behind_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    graph = capture(Net().eval(), example=x)
    sweep, layers = Sweep(graph, [[x]]), learned_layers(graph)
    list(sweep.values([layers[2].name], before=layers[2].name))
    with torch.no_grad():
        graph.module.get_parameter(str(argument(layers[0], "weight").target)).zero_()
    (before,) = sweep.values([layers[2].name], before=layers[2].name)
    assert not torch.equal(before[0], Inside(graph, [layers[2].name])(x)[0])

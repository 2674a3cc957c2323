"""Residual blocks of CNNs: those that change the shape stay, whatever their shortcut is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import leanly
from leanly.graph.blocks import find_blocks
from leanly.prune import Layers
from tests.once import once
from tests.prune.shortened import (
    assert_lowered,
    assert_same,
    assert_saved_and_opened,
    assert_trains,
    removed,
    spread,
    without,
)


class Basic(nn.Module):
    """Two convolutions; a shortcut that pads zero channels (option A) or convolves."""

    def __init__(self, before: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.padding, self.changes = (channels - before) // 2, stride != 1
        if self.changes and shortcut == "convolution":
            self.shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride=2), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x)
        elif self.changes:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(y + x)


class ResNet(nn.Module):
    """Two stages of basic blocks under one list, with a hard-coded view behind them."""

    def __init__(self, shortcut: str = "padding", blocks: int = 3, block=Basic) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(
            *(block(8, 8, 1, shortcut) for _ in range(blocks)),
            block(8, 16, 2, shortcut),
            *(block(16, 16, 1, shortcut) for _ in range(blocks - 1)),
        )
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.bn(self.conv(x))))
        return self.head(functional.avg_pool2d(x, 2).view(-1, 16 * 16).relu_())


class Bottleneck(nn.Module):
    """Pre-activation: norm and ReLU before each convolution, nothing behind the sum; squeeze and excite inside."""

    def __init__(self, before: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, 4, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, channels, 3, stride=stride, padding=1)
        self.down, self.up = nn.Linear(channels, 4), nn.Linear(4, channels)
        self.shortcut = nn.Conv2d(before, channels, 1, stride=stride) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.bn2(self.conv1(torch.relu(self.bn1(x))))))
        y = y * torch.sigmoid(self.up(torch.relu(self.down(y.mean((2, 3))))))[:, :, None, None]
        return y + self.shortcut(x)


def images(rows: int) -> Tensor:
    return torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(rows))


@once
def case(shortcut: str = "padding", block=Basic) -> tuple[nn.Module, leanly.Graph]:
    model = spread(ResNet(shortcut, block=block))
    return model, leanly.capture(model, example=images(2))


@pytest.mark.parametrize(
    ("shortcut", "block"), [("padding", Basic), ("convolution", Basic), ("convolution", Bottleneck)],
    ids=["option A", "convolution", "pre-activation"],
)  # fmt: skip
def test_blocks_leave_and_those_that_change_the_shape_stay(shortcut, block):
    model, graph = case(shortcut, block)
    assert len(find_blocks(graph)) == 5, "three of the first stage, two of the second"
    for count in (1, 3, 5):
        short = Layers(count)(graph)
        gone = removed(short, "blocks")
        assert len(gone) == count and 3 not in gone
        reference = copy.deepcopy(model)
        reference.blocks = without(reference.blocks, gone)
        assert_same(short, reference, images)
        assert_trains(short)
        assert short.cost().macs < graph.cost().macs


def test_saved_opened_shortened_again_and_lowered(tmp_path, elsewhere):
    model, graph = case()
    once = Layers(2)(graph)
    assert_saved_and_opened(once, tmp_path, elsewhere)
    again = Layers(2)(leanly.Graph.open(tmp_path / "graph"))
    gone = removed(again, "blocks")
    assert len(gone) == 4 and set(once.kept) < set(again.kept)
    reference = copy.deepcopy(model)
    reference.blocks = without(reference.blocks, gone)
    assert_same(again, reference, images)
    assert_lowered(again, tmp_path, images)


def test_the_graph_given_is_not_changed():
    _, graph = case()
    before = graph.fingerprint()
    Layers(3)(graph)
    assert graph.fingerprint() == before and not graph.kept


def test_counters_leave_with_their_layer():
    model, graph = case()
    short = Layers(1)(graph)
    (gone,) = removed(short, "blocks")
    assert set(graph.state_dict()) - set(short.state_dict()) == {
        name for name in model.state_dict() if name.startswith(f"blocks.{gone}.")
    }
    assert not any("running" in name or "num_batches" in name for name in short.kept), "kept speaks of parameters"


def test_running_statistics_are_those_of_the_layers_that_are_left():
    _, graph = case()
    short = Layers(2)(graph).train()
    before = {name: tensor.clone() for name, tensor in short.state_dict().items()}
    short(images(4))
    moved = {name for name, tensor in short.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.endswith(("running_mean", "running_var"))}


class Mixed(nn.Module):
    """A block inside a group that is residual itself, one whose value is read elsewhere, one without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        group = x + torch.tanh(x + self.layers[0](x)) @ torch.ones(6, 6)
        seen = torch.tanh(self.layers[1](group))
        group = group + self.layers[2](seen)
        bare = group + group.sin()
        return bare + torch.relu(self.layers[3](bare)), seen


def test_only_the_smallest_and_only_what_nobody_else_reads():
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(8, 6)
    graph = leanly.capture(model, example=x[:2])
    blocks = find_blocks(graph)
    assert [block.tensors for block in blocks] == [
        ("layers.0.weight", "layers.0.bias"),
        ("layers.3.weight", "layers.3.bias"),
    ]
    short = Layers(2)(graph)
    group = x + torch.tanh(x) @ torch.ones(6, 6)
    seen = torch.tanh(model.layers[1](group))
    group = group + model.layers[2](seen)
    found = short(x)
    torch.testing.assert_close(found[0], group + group.sin())
    torch.testing.assert_close(found[1], seen)

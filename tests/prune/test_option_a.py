import torch
from torch import nn
from torch.nn import functional

from tests.prune.surgery import operate


class Block(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.stride, self.padding = stride, (channels - inputs) // 2

    def forward(self, x):
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if self.stride != 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return torch.relu(x + y)


class ResNet(nn.Module):
    """Shortcuts without parameters: every other pixel, zero channels on both sides (He et al. 2015, option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1), Block(16, 32, 2))
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.norm(self.stem(x)))).mean((2, 3)))


def test_padded_shortcuts(tmp_path, elsewhere):
    _, half = operate(ResNet(), torch.randn(2, 3, 12, 12), tmp_path, elsewhere, lowered=True)
    pads = [node.args[1][4:] for node in half.module.graph.nodes if str(node.target) == "aten.pad.default"]
    first, middle, last = (len(half.kept[f"{name}.weight"][0]) for name in ("stem", "blocks.1.conv2", "blocks.3.conv2"))
    assert [sum(pad) for pad in pads] == [middle - first, last - middle]
    assert first < 8 and middle < 16 and last < 32

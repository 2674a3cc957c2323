"""ResNets for CIFAR-10 with parameter-free shortcuts (He et al. 2015, section 4.2, option A)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions; where the shape changes the shortcut drops every other pixel and pads zero channels."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - channels_in) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(f(x) + shortcut(x))."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels.

    Args:
        blocks: blocks a stage: 3 is ResNet-20, 9 is ResNet-56.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ten logits an image."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1)))


def narrowed(blocks: int, widths: Sequence[int]) -> CifarResNet:
    """Return a network of random weights with these many channels between the two convolutions of each block."""
    model = CifarResNet(blocks)
    parts = [module for module in model.modules() if isinstance(module, Block)]
    for part, width in zip(parts, widths, strict=True):
        part.conv1 = nn.Conv2d(part.conv1.in_channels, width, 3, stride=part.stride, padding=1, bias=False)
        part.bn1 = nn.BatchNorm2d(width)
        part.conv2 = nn.Conv2d(width, part.conv2.out_channels, 3, padding=1, bias=False)
    return model.eval()


def load(data_dir: Path, depth: int) -> CifarResNet:
    """Return the fine-tuned network of that depth (20 or 56)."""
    model = CifarResNet((depth - 2) // 6)
    weights = load_file(data_dir / f"cifar10-resnet{depth}.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    wrong = [name for name in missing if not name.endswith("num_batches_tracked")] + list(unexpected)
    if wrong:
        raise ValueError(f"cifar10-resnet{depth}.safetensors and the network differ in {', '.join(wrong)}")
    return model.eval()

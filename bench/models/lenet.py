"""LeNet-300-100, Caffe's LeNet-5, and a far smaller network that may stand for the latter."""

from __future__ import annotations

import torch
from torch import nn


def lenet_300_100() -> nn.Module:
    """Return 784-300-100-10: 266,610 parameters."""
    layers = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def lenet_5() -> nn.Module:
    """Return two convolutions of 5x5 with 20 and 50 channels, 500 and 10 neurons: 431,080 parameters."""
    features = [nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)]
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


class Tiny(nn.Module):
    """Four convolutions of 3x3, each with a batch norm, and the mean over what is left of the image."""

    def __init__(self, widths: tuple[int, int, int, int] = (8, 12, 20, 28)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip((1, *widths), widths, strict=False)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number < 2 else []
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ten logits an image."""
        return self.head(self.features(x).mean((2, 3)))

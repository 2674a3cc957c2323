"""An Inception network for 32 x 32 (Szegedy et al. 2015, "Going Deeper with Convolutions"), trained on CIFAR once."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import leanly
from bench.data import CACHE, cifar10
from bench.rows import told
from leanly.training import Settings, train

TRAINING = "2"
"""Raise it when the training below changes: the kept weights bear it."""
EPOCHS = 20
SETTINGS = Settings(batch_size=128, learning_rate=4e-3, augment=("crop", "flip"))


class Convolution(nn.Sequential):
    """A convolution, batch norm and ReLU; the image keeps its size."""

    def __init__(self, channels_in: int, channels: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class Inception(nn.Module):
    """Four branches side by side: 1 x 1; 3 x 3; twice 3 x 3; pooled and 1 x 1. They share the width 2 : 4 : 1 : 1."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        part = channels // 8
        self.one = Convolution(channels_in, 2 * part, 1)
        self.three = nn.Sequential(Convolution(channels_in, 3 * part, 1), Convolution(3 * part, 4 * part, 3))
        self.five = nn.Sequential(
            Convolution(channels_in, part, 1), Convolution(part, part, 3), Convolution(part, part, 3)
        )
        self.pooled = Convolution(channels_in, part, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the branches, channel behind channel."""
        pooled = self.pooled(F.max_pool2d(x, 3, 1, 1))
        return torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1)


class SmallInception(nn.Module):
    """Six Inception blocks at 16 x 16 and 8 x 8 behind one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Convolution(3, 32, 3)
        widths = ((32, 96), (96, 128), (128, 128))
        self.middle = nn.Sequential(*(Inception(*pair) for pair in widths))
        self.end = nn.Sequential(*(Inception(*pair) for pair in ((128, 192), (192, 192), (192, 256))))
        self.linear = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ten logits an image."""
        x = self.middle(F.max_pool2d(self.first(x), 2))
        return self.linear(self.end(F.max_pool2d(x, 2)).mean((2, 3)))


def load(data_dir: Path) -> SmallInception:
    """Return the trained network; the first call trains it, or goes on where it was cut off."""
    path = CACHE / "weights" / f"small-inception-{TRAINING}.safetensors"
    model = SmallInception()
    if not path.exists():
        torch.manual_seed(0)
        rows = cifar10(data_dir, "train")
        task = leanly.Task(
            SmallInception().train(), example=rows.inputs[:2], train=(rows.inputs, rows.labels), loss="cross_entropy"
        )
        # without validation rows: nothing is chosen, the last state counts
        graph = train(
            task, epochs=EPOCHS, settings=SETTINGS, folder=CACHE / "inception", progress=told("small Inception")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        wanted = model.state_dict()
        state = {name: tensor.contiguous() for name, tensor in graph.state_dict().items() if name in wanted}
        save_file(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    missing, _ = model.load_state_dict(load_file(path), strict=False)
    if wrong := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise ValueError(f"{path.name} and the network differ in {', '.join(wrong)}")
    return model.eval()

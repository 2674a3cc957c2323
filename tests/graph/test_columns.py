"""Columns: a layer is the product of its weight's rows with what they are multiplied with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import leanly
from leanly.graph.columns import as_rows, columns, from_rows, has_columns

IMAGE, SEQUENCE = (4, 7, 6), (4, 9)
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (3, 6)),
    "convolution": (nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2)), IMAGE),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), IMAGE),
    "sequence": (nn.Conv1d(4, 6, 3, padding="same"), SEQUENCE),
    "transposed": (nn.ConvTranspose2d(4, 5, (3, 2)), IMAGE),
    "transposed, strided": (nn.ConvTranspose2d(4, 5, (2, 3), stride=(2, 3), padding=(1, 0)), IMAGE),
    "transposed, dilated": (nn.ConvTranspose2d(4, 5, 3, 2, padding=1, output_padding=1, dilation=(2, 1)), IMAGE),
    "transposed, cropped": (nn.ConvTranspose2d(4, 5, 2, stride=2, padding=2), IMAGE),
    "transposed sequence": (nn.ConvTranspose1d(4, 3, 4, stride=3, padding=1, output_padding=2), SEQUENCE),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_columns_are_the_outputs(name: str) -> None:
    torch.manual_seed(0)
    module, shape = LAYERS[name]
    x = torch.randn(3, *shape)
    graph = leanly.capture(module.eval(), example=x)
    (layer,) = (node for node in graph.module.graph.nodes if has_columns(node))
    weight = module.weight.detach()
    multiplied = columns(x, layer, weight.shape[2:])
    rows = as_rows(weight, layer, len(multiplied))
    torch.testing.assert_close(from_rows(rows, layer, weight.shape), weight)
    found = (rows @ multiplied).flatten(0, 1) + module.bias.detach()[:, None]
    wanted = module(x).detach()
    wanted = wanted.reshape(-1, wanted.shape[-1]).T if name == "linear" else wanted.transpose(0, 1).flatten(1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["convolution", "grouped", "sequence", "transposed"])
def test_one_image_without_a_batch_is_a_batch_of_one(name: str) -> None:
    module, shape = LAYERS[name]
    x = torch.randn(1, *shape)
    graph = leanly.capture(module.eval(), example=torch.randn(3, *shape))
    (layer,) = (node for node in graph.module.graph.nodes if has_columns(node))
    kernel = module.weight.shape[2:]
    torch.testing.assert_close(columns(x[0], layer, kernel), columns(x, layer, kernel))


def test_groups_of_a_transposed_convolution_are_not_known() -> None:
    graph = leanly.capture(nn.ConvTranspose2d(4, 6, 3, groups=2).eval(), example=torch.randn(2, *IMAGE))
    assert not any(has_columns(node) for node in graph.module.graph.nodes)

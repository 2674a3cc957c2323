"""What the columns of a layer's weight are multiplied with: the values of a linear layer, the patches of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from leanly.graph.nodes import argument

aten = torch.ops.aten


def has_columns(node: Node) -> bool:
    """Say whether `columns` knows an operator."""
    return node.target in (aten.linear.default, aten.conv2d.default)


def columns(values: Tensor, node: Node, kernel: torch.Size) -> Tensor:
    """Return what each column of a layer's weight is multiplied with, `[groups, columns, places]`.

    Args:
        values: the layer's input.
        node: the layer.
        kernel: height and width of its weight; nothing for a linear layer.
    """
    if node.target is aten.linear.default:
        return values.reshape(1, -1, values.shape[-1]).transpose(1, 2)
    groups = argument(node, "groups")
    window = {name: argument(node, name) for name in ("dilation", "padding", "stride")}
    unfolded = F.unfold(values, kernel, **window)
    grouped = unfolded.reshape(len(values), groups, -1, unfolded.shape[-1])
    return grouped.permute(1, 2, 0, 3).flatten(2)

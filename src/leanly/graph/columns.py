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


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Return a Hessian of what columns are multiplied with, made invertible; columns that are never used stand alone.

    Args:
        hessian: `[columns, columns]`.
        damping: share of the mean of its diagonal that is added to it.
    """
    hessian = hessian.clone()
    hessian.diagonal()[hessian.diagonal() == 0] = 1.0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    return hessian


def inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of a Hessian's inverse: its rows say what columns behind one make up for."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)

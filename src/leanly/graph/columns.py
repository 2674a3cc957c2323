"""What the columns of a layer's weight are multiplied with: the values of a linear layer, the patches of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from leanly.graph.nodes import argument

aten = torch.ops.aten
CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding})


def has_columns(node: Node) -> bool:
    """Say whether `columns` knows an operator."""
    return node.target is aten.linear.default or node.target in CONVOLUTIONS


def columns(values: Tensor, node: Node, kernel: torch.Size) -> Tensor:
    """Return what each column of a layer's weight is multiplied with, `[groups, columns, places]`.

    Args:
        values: the layer's input.
        node: the layer.
        kernel: height and width of its weight, or its length; nothing for a linear layer.
    """
    if node.target is aten.linear.default:
        return values.reshape(1, -1, values.shape[-1]).transpose(1, 2)
    groups, padding = argument(node, "groups"), argument(node, "padding")
    dilation, stride = (_each(argument(node, name), kernel) for name in ("dilation", "stride"))
    if padding == "same":
        whole = [spread * (size - 1) for spread, size in zip(dilation, kernel, strict=True)]
        values = F.pad(values, [end for size in reversed(whole) for end in (size // 2, size - size // 2)])
    pads = (0,) * len(kernel) if isinstance(padding, str) else _each(padding, kernel)
    if len(kernel) == 1:  # a sequence is an image of one row
        values, kernel = values.unsqueeze(2), torch.Size((1, *kernel))
        dilation, pads, stride = (1, *dilation), (0, *pads), (1, *stride)
    unfolded = F.unfold(values, tuple(kernel), dilation, pads, stride)
    grouped = unfolded.reshape(len(values), groups, -1, unfolded.shape[-1])
    return grouped.permute(1, 2, 0, 3).flatten(2)


def _each(setting: int | list[int], kernel: torch.Size) -> tuple[int, ...]:
    """Return a setting for each dimension of a kernel."""
    found = (setting,) if isinstance(setting, int) else tuple(setting)
    return found * len(kernel) if len(found) == 1 else found


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

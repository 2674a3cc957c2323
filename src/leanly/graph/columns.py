"""What the columns of a layer's weight are multiplied with: the values of a linear layer, the patches of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from leanly.graph.layers import CONVOLUTIONS, Window, each_way, window_of
from leanly.graph.nodes import MATRICES, argument

aten = torch.ops.aten


def has_columns(node: Node) -> bool:
    """Say whether `columns` knows an operator."""
    return is_product(node) or node.target in CONVOLUTIONS or is_transposed(node)


def is_product(node: Node) -> bool:
    """Say whether a layer multiplies the last dimension of its input with a matrix, and does nothing else."""
    return node.target is aten.linear.default or node.target in MATRICES


def is_transposed(node: Node) -> bool:
    """Say whether a layer is a transposed convolution, of a sequence or an image, whose outputs all read all inputs."""
    return node.target in (aten.conv_transpose1d.default, aten.conv_transpose2d.input) and argument(node, "groups") == 1


def as_rows(weight: Tensor, node: Node, groups: int) -> Tensor:
    """Return a layer's weight as `[groups, outputs, columns]`, in the order of `columns`."""
    if node.target in MATRICES:
        weight = weight.T
    elif is_transposed(node):
        weight = _turned(weight)
    return weight.reshape(groups, -1, weight[0].numel())


def from_rows(rows: Tensor, node: Node, shape: torch.Size) -> Tensor:
    """Return rows, as `as_rows` gave them, in the shape of the weight."""
    if node.target in MATRICES:
        return rows[0].T
    if is_transposed(node):
        return _turned(rows.reshape(shape[1], shape[0], *shape[2:]))
    return rows.reshape(shape)


def _turned(weight: Tensor) -> Tensor:
    """Return the weight of a transposed convolution as that of the convolution which does the same, or back."""
    return weight.transpose(0, 1).flip(tuple(range(2, weight.ndim)))


def columns(values: Tensor, node: Node, kernel: torch.Size) -> Tensor:
    """Return what each column of a layer's weight is multiplied with, `[groups, columns, places]`.

    Args:
        values: the layer's input.
        node: the layer.
        kernel: height and width of its weight, or its length; nothing for a linear layer.
    """
    if is_product(node):
        return values.reshape(1, -1, values.shape[-1]).transpose(1, 2)
    values = values.reshape(-1, *values.shape[-1 - len(kernel) :])  # one image may come without a batch
    if is_transposed(node):
        values, window = _spread(values, node, kernel)
    else:
        window = window_of(node, kernel)
    groups = argument(node, "groups")
    if window.stride == (1,) * len(kernel) and not any((*window.before, *window.after)) and kernel.numel() == 1:
        return values.reshape(len(values), groups, -1, values[0, 0].numel()).permute(1, 2, 0, 3).flatten(2)
    sides = zip(reversed(window.before), reversed(window.after), strict=True)
    values = F.pad(values, [end for pair in sides for end in pair])
    dilation, stride = window.dilation, window.stride
    if len(kernel) == 1:  # a sequence is an image of one row
        values, kernel, dilation, stride = values.unsqueeze(2), torch.Size((1, *kernel)), (1, *dilation), (1, *stride)
    unfolded = F.unfold(values, tuple(kernel), dilation, 0, stride)
    grouped = unfolded.reshape(len(values), groups, -1, unfolded.shape[-1])
    return grouped.permute(1, 2, 0, 3).flatten(2)


def _spread(values: Tensor, node: Node, kernel: torch.Size) -> tuple[Tensor, Window]:
    """Return what the convolution reads that does the same as a transposed one, and how it slides: zeros in between."""
    stride, dilation, padding, more = (
        each_way(argument(node, name), len(kernel)) for name in ("stride", "dilation", "padding", "output_padding")
    )
    sizes = [step * (size - 1) + 1 for step, size in zip(stride, values.shape[2:], strict=True)]
    wide = values.new_zeros(*values.shape[:2], *sizes)
    wide[(..., *(slice(None, None, step) for step in stride))] = values
    before = tuple(far * (size - 1) - pad for far, size, pad in zip(dilation, kernel, padding, strict=True))
    after = tuple(map(sum, zip(before, more, strict=True)))
    return wide, Window((1,) * len(kernel), dilation, before, after)


def summed_products(left: Tensor, right: Tensor) -> Tensor:
    """Return the products of `[groups, columns, places]` and `[groups, others, places]`, summed over the places.

    They are added up in the values' own precision; add what several batches give in double precision.
    """
    left, right = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in (left, right))
    return (left @ right.transpose(1, 2)).double()


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Make a Hessian of what columns are multiplied with invertible, and return it; columns never used stand alone.

    Args:
        hessian: `[columns, columns]`; it is changed in place, since wide layers have large ones.
        damping: share of the mean of its diagonal that is added to it.
    """
    hessian.diagonal()[hessian.diagonal() == 0] = 1.0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    return hessian


def inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of a Hessian's inverse: its rows say what columns behind one make up for.

    Args:
        hessian: `[columns, columns]`; the factor takes its place.
    """
    hessian = hessian.mT  # the same numbers, in the order in which LAPACK needs no copy
    torch.linalg.cholesky(hessian, out=hessian)
    torch.cholesky_inverse(hessian, out=hessian)
    return torch.linalg.cholesky(hessian, upper=True, out=hessian)

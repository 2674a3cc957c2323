"""Layers that read few-bit weights as they are stored; they stand in a graph only while it is lowered."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.library.custom_op("leanly::packed_linear", mutates_args=())
def packed_linear(x: Tensor, codes: Tensor, step: Tensor, zero_point: Tensor, bias: Tensor | None, bits: int) -> Tensor:
    """Multiply with weights that are decoded on the fly: `(codes - zero_point) * step`.

    Args:
        x: `[..., columns]`.
        codes: uint8 `[rows, columns]`, below `2 ** bits`.
        step: float `[rows, groups]`, one value a group of neighbouring columns.
        zero_point: uint8 `[rows, groups]`.
        bias: `[rows]`.
        bits: of a stored code.
    """
    width = codes.shape[1] // step.shape[1]
    zero = zero_point.to(step.dtype).repeat_interleave(width, 1)
    return F.linear(x, (codes.to(step.dtype) - zero) * step.repeat_interleave(width, 1), bias)


@packed_linear.register_fake
def _(x: Tensor, codes: Tensor, step: Tensor, zero_point: Tensor, bias: Tensor | None, bits: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@torch.library.custom_op("leanly::packed_embedding", mutates_args=())
def packed_embedding(ids: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    """Look rows up in a table of int8, and decode those that were found.

    Args:
        ids: integers of any shape.
        codes: int8 `[rows, width]`.
        step: float `[rows]`.
    """
    return codes[ids].to(step.dtype) * step[ids][..., None]


@packed_embedding.register_fake
def _(ids: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    return step.new_empty((*ids.shape, codes.shape[1]))

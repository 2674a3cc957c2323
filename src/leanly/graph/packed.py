"""Layers that read few-bit weights as they are stored; they stand in a graph only while it is lowered."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from leanly.graph.binarizer import signs
from leanly.graph.quantizer import along


@torch.library.custom_op("leanly::packed_linear", mutates_args=())
def packed_linear(x: Tensor, codes: Tensor, step: Tensor, zero_point: Tensor, bias: Tensor | None, bits: int) -> Tensor:
    """Multiply with weights that are decoded on the fly: `(codes - zero_point) * step`.

    Args:
        x: `[..., columns]`.
        codes: uint8 `[rows, columns]`, below `2 ** bits`.
        step: float16 or float32 `[rows, groups]`, one value a group of neighbouring columns.
        zero_point: uint8 `[rows, groups]`.
        bias: `[rows]`.
        bits: of a stored code.
    """
    width = codes.shape[1] // step.shape[1]
    zero = zero_point.to(x.dtype).repeat_interleave(width, 1)
    return F.linear(x, (codes.to(x.dtype) - zero) * step.to(x.dtype).repeat_interleave(width, 1), bias)


@packed_linear.register_fake
def _(x: Tensor, codes: Tensor, step: Tensor, zero_point: Tensor, bias: Tensor | None, bits: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], codes.shape[0]))


@torch.library.custom_op("leanly::packed_embedding", mutates_args=())
def packed_embedding(ids: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    """Look rows up in a table of int8, and decode those that were found.

    Args:
        ids: integers of any shape.
        codes: int8 `[rows, width]`.
        step: float16 or float32 `[rows]`.
    """
    return codes[ids].float() * step[ids].float()[..., None]


@packed_embedding.register_fake
def _(ids: Tensor, codes: Tensor, step: Tensor) -> Tensor:
    return step.new_empty((*ids.shape, codes.shape[1]), dtype=torch.float32)


@torch.library.custom_op("leanly::grouped_embedding", mutates_args=())
def grouped_embedding(ids: Tensor, packed: Tensor, step: Tensor, width: int) -> Tensor:
    """Look rows up in a table of four-bit codes, and decode those that were found.

    Args:
        ids: integers of any shape.
        packed: uint8 `[rows, bytes]`: the codes of a row, behind them the zero point of each group; the first half of
            these in the low bits, the second in the high ones.
        step: float16 or float32 `[rows, groups]`, one value a group of neighbouring columns.
        width: of a row.
    """
    found, groups = packed[ids], step.shape[1]
    codes = torch.cat([found & 15, found >> 4], -1).float()
    zero = codes[..., width : width + groups, None]
    values = codes[..., :width].unflatten(-1, (groups, -1))
    return ((values - zero) * step[ids].float()[..., None]).flatten(-2)


@grouped_embedding.register_fake
def _(ids: Tensor, packed: Tensor, step: Tensor, width: int) -> Tensor:
    return step.new_empty((*ids.shape, width), dtype=torch.float32)


@torch.library.custom_op("leanly::binary_convolution", mutates_args=())
def binary_convolution(
    x: Tensor,
    threshold: Tensor,
    packed: Tensor,
    factor: Tensor,
    offset: Tensor,
    kernel: list[int],
    strides: list[int],
    pads: list[int],
    dilations: list[int],
) -> Tensor:
    """Convolve the signs of values with signs that lie eight to a byte; outside the image is zero.

    Args:
        x: float `[batch, channels, height, width]`.
        threshold: float `[channels]`: values from it on are plus.
        packed: uint8 `[filters, taps, bytes]`, the channels of a tap from the lowest bit on.
        factor: float `[filters]`, what a product of signs stands for.
        offset: float `[filters]`, added to the sums.
        kernel: height and width.
        strides: down and to the right.
        pads: top, left, bottom, right.
        dilations: down and to the right.
    """
    weight = _unpacked(packed, x.shape[1], x.dtype).transpose(1, 2).reshape(len(packed), x.shape[1], *kernel)
    top, left, bottom, right = pads
    given = F.pad(signs(x - along(threshold, x, 1)), (left, right, top, bottom))
    sums = F.conv2d(given, weight, None, strides, 0, dilations)
    return sums * along(factor, sums, 1) + along(offset, sums, 1)


@binary_convolution.register_fake
def _(
    x: Tensor,
    threshold: Tensor,
    packed: Tensor,
    factor: Tensor,
    offset: Tensor,
    kernel: list[int],
    strides: list[int],
    pads: list[int],
    dilations: list[int],
) -> Tensor:
    sides = [
        (x.shape[2 + side] + pads[side] + pads[2 + side] - dilations[side] * (kernel[side] - 1) - 1) // strides[side]
        + 1
        for side in range(2)
    ]
    return x.new_empty((x.shape[0], packed.shape[0], *sides))


@torch.library.custom_op("leanly::binary_linear", mutates_args=())
def binary_linear(x: Tensor, threshold: Tensor, packed: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Multiply the signs of values with signs that lie eight to a byte.

    Args:
        x: float `[..., channels]`.
        threshold: float `[channels]`: values from it on are plus.
        packed: uint8 `[filters, 1, bytes]`, channels from the lowest bit on.
        factor: float `[filters]`, what a product of signs stands for.
        offset: float `[filters]`, added to the sums.
    """
    weight = _unpacked(packed, x.shape[-1], x.dtype).flatten(1)
    return F.linear(signs(x - threshold), weight) * factor + offset


@binary_linear.register_fake
def _(x: Tensor, threshold: Tensor, packed: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], packed.shape[0]))


def _unpacked(packed: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Return signs `[filters, taps, channels]`."""
    bits = (packed[..., None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten(2)[..., :channels].to(dtype) * 2 - 1

"""Saturation: without VNNI, kernels multiply bytes and add two neighbouring products in 16 bits (`vpmaddubsw`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from leanly.graph.layers import CONVOLUTIONS
from leanly.graph.nodes import argument


def adds_in_pairs(layer: Node, weight: Tensor) -> bool:
    """Say whether kernels add products of a layer in pairs: where each output reads one channel, they do not."""
    depthwise = weight.ndim == 4 and weight.shape[1] == 1 and layer.target in CONVOLUTIONS
    return not (depthwise and weight.shape[0] == argument(layer, "groups"))


def largest_pairs(weight: Tensor) -> Tensor:
    """Return for each output channel the largest sum of two neighbouring weights of one sign.

    Channels of the input are innermost; whether an odd number of them is filled up to an even one depends on the
    runtime. In a range as wide as these sums, two integers come to 127 and one of rounding: 255 * 128 < 2**15.

    Args:
        weight: `[outputs, inputs, ...]`.
    """
    rows = weight.movedim(1, -1)
    filled = functional.pad(rows, (0, rows.shape[-1] % 2))
    return torch.maximum(_pair_sums(rows.flatten(1)), _pair_sums(filled.flatten(1)))


def _pair_sums(rows: Tensor) -> Tensor:
    pairs = functional.pad(rows, (0, rows.shape[1] % 2)).unflatten(1, (-1, 2))
    return torch.maximum(pairs.clamp(min=0).sum(2), pairs.clamp(max=0).sum(2).neg()).amax(1)

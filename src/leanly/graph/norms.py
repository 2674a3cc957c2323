"""Batch norm in evaluation mode, as what it computes: `(x - mean) * factor + shift`, channel by channel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leanly.graph.nodes import argument, reads_tensor
from leanly.graph.tensors import find

BATCH_NORM = torch.ops.aten.batch_norm.default


class Norm(NamedTuple):
    """What a batch norm computes, float64 `(channels,)` each."""

    mean: Tensor
    factor: Tensor
    shift: Tensor


def is_stored_norm(node: Node) -> bool:
    """Say whether a node is a batch norm whose statistics, scale and shift are read as they are stored."""
    if node.target is not BATCH_NORM:
        return False
    statistics = [argument(node, name) for name in ("running_mean", "running_var")]
    affine = [argument(node, name) for name in ("weight", "bias")]
    return all(map(reads_tensor, statistics)) and all(one is None or reads_tensor(one) for one in affine)


def norm_of(module: GraphModule, node: Node) -> Norm:
    """Return what a batch norm computes.

    Args:
        module: holds its tensors.
        node: `is_stored_norm` says so.
    """

    def stored(name: str) -> Tensor | None:
        read = argument(node, name)
        return None if read is None else find(module, str(read.target)).detach().double()

    mean, variance, weight, bias = map(stored, ("running_mean", "running_var", "weight", "bias"))
    assert mean is not None and variance is not None, "they are stored"
    factor = torch.rsqrt(variance + argument(node, "eps"))
    return Norm(mean, factor if weight is None else factor * weight, torch.zeros_like(mean) if bias is None else bias)

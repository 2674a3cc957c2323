"""In which numbers and which memory order a network is trained on its device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from leanly.graph import Graph
from leanly.graph.tensors import dtype_named
from leanly.graph.watching import Watched
from leanly.target import Target

aten = torch.ops.aten
CONVOLUTIONS = frozenset({aten.conv2d.default, aten.conv2d.padding, aten.conv_transpose2d.input})
FIXED_STRIDES = frozenset({aten.as_strided.default, aten.view_as_real.default, aten.view_as_complex.default})
"""Operators that read memory as it lies: another order would give another result."""


def chosen_dtype(graph: Graph, precision: str, target: Target | None) -> torch.dtype:
    """Return the dtype of matrix products in training; "auto" is bfloat16 where the machine multiplies in it."""
    if precision != "auto":
        return dtype_named(precision)
    if graph.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if (target or Target()).bf16 else torch.float32


def takes_channels_last(graph: Graph) -> bool:
    """Say whether a network of images computes the same with channels in the innermost place, where they are faster."""
    targets = {node.target for node in graph.module.graph.nodes}
    return bool(targets & CONVOLUTIONS) and not targets & FIXED_STRIDES


def placed(inputs: list[Tensor], device: torch.device, channels_last: bool) -> list[Tensor]:
    """Return the inputs on a device, 4-D ones in channels_last order if so asked."""
    moved = [tensor.to(device) for tensor in inputs]
    if not channels_last:
        return moved
    return [tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor for tensor in moved]


def run(graph: Graph | Watched, inputs: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Run a graph with its matrix products in `dtype`; the outputs come in their own dtype."""
    with torch.autocast(graph.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs = graph.flat(*inputs)
    return tuple(
        output.to(dtype_named(spec.dtype)) if output.is_floating_point() else output
        for spec, output in zip(graph.outputs, outputs, strict=True)
    )


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Choose kernels that add up in one fixed order while the block runs."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        memory.fill_uninitialized_memory = filled

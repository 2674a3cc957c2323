"""The quantizer operator: affine integers with a straight-through gradient, as one node of the graph.

`x_int = clamp(round(x * scale + shift), low, high)`: `scale` is steps per unit, `shift` the zero point. One operator
simulates (activations, and weights while they train); the other reads weights that are already stored as integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    if values.ndim == 0 or axis < 0:
        return values
    return values.reshape([-1 if i == axis else 1 for i in range(like.ndim)])


@torch.library.custom_op("leanly::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, shift: Tensor, axis: int, low: int, high: int) -> Tensor:
    """Round a float tensor to the nearest of its integers and return the float that integer stands for.

    Args:
        x: float tensor of any shape.
        scale: steps per unit, a scalar, or one value per index of dimension `axis`.
        shift: zero point in steps, shaped like `scale`, a whole number.
        axis: dimension that has values of its own; -1 for none.
        low: smallest integer.
        high: largest integer.
    """
    s, z = _along(scale, x, axis), _along(shift, x, axis)
    return ((torch.round(x * s) + z).clamp(low, high) - z) / s


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, shift: Tensor, axis: int, low: int, high: int) -> Tensor:
    return torch.empty_like(x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, shift, axis, low, high = inputs
    s, z = _along(scale, x, axis), _along(shift, x, axis)
    steps = x * s + z
    ctx.save_for_backward((steps >= low - 0.5) & (steps <= high + 0.5))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (inside,) = ctx.saved_tensors
    return grad * inside, None, None, None, None, None


fake_quantize.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("leanly::dequantize", mutates_args=())
def dequantize(x_int: Tensor, scale: Tensor, shift: Tensor, axis: int) -> Tensor:
    """Return the float32 values of stored integers: `(x_int - shift) / scale`.

    Args:
        x_int: int8, uint8 or int32 tensor.
        scale: steps per unit, a scalar, or one value per index of dimension `axis`.
        shift: zero point in steps, shaped like `scale`.
        axis: dimension that has values of its own; -1 for none.
    """
    return (x_int.to(scale.dtype) - _along(shift, x_int, axis)) / _along(scale, x_int, axis)


@dequantize.register_fake
def _(x_int: Tensor, scale: Tensor, shift: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x_int, dtype=scale.dtype)

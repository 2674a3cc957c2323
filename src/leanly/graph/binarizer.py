"""The one-bit operators: signs with a scale, and gradients that go through them.

Weights become `alpha * sign(w - mean(w))` a channel, activations `scale * sign(x - threshold)`; the sign of zero is
plus. Both are functions of floats here; `lowering` stores the signs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leanly.graph.quantizer import along


def signs(x: Tensor) -> Tensor:
    """Return +1 where a tensor is zero or above, else -1."""
    return _signs(x, x.new_zeros(()))


def _signs(x: Tensor, threshold: Tensor) -> Tensor:
    # written as floats at once: turning booleans into them takes longer than all the rest
    return torch.ge(x, threshold, out=torch.empty_like(x)).mul_(2).sub_(1)


def split_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return what of a weight is kept in one bit: its signs around each channel's mean, and a scale a channel.

    The scale that loses least is the mean distance from zero (Rastegari et al. 2016, "XNOR-Net"); centring makes both
    signs equally frequent (Qin et al. 2020, "Forward and Backward Information Retention", IR-Net).

    Args:
        weight: `[channels, ...]`.
    """
    rest = list(range(1, weight.ndim))
    centred = weight - weight.mean(rest, keepdim=True)
    return signs(centred), centred.abs().mean(rest)


def scaled_weight(weight: Tensor, factor: Tensor) -> Tensor:
    """Return a weight that stands for `factor` times what another one stands for.

    Training leaves many weights next to their channel's mean, where rounding would change their signs: here each
    channel has two values, one a sign, whose mean is zero.

    Args:
        weight: `[channels, ...]`.
        factor: one a channel.
    """
    sign, scale = split_weight(weight)
    sign = sign * signs(along(factor, weight, 0))
    rest = list(range(1, weight.ndim))
    least = 1 / weight[0].numel()
    plus = (sign > 0).double().mean(rest)
    half = scale * factor.abs() / 2
    high, low = half / plus.clamp(min=least), half / (1 - plus).clamp(min=least)
    return torch.where(sign > 0, along(high, weight, 0), -along(low, weight, 0)).to(weight.dtype)


@torch.library.custom_op("leanly::binarize_weight", mutates_args=())
def binarize_weight(weight: Tensor) -> Tensor:
    """Return the weight that its signs and its channels' scales stand for.

    Args:
        weight: `[channels, ...]` of a convolution or linear layer.
    """
    sign, scale = split_weight(weight)
    return sign * along(scale, weight, 0)


@binarize_weight.register_fake
def _(weight: Tensor) -> Tensor:
    return torch.empty_like(weight)


def _weight_backward(ctx: Any, grad: Tensor) -> Tensor:
    """Straight through, less each channel's mean: the centring takes that away again."""
    return grad - grad.mean(list(range(1, grad.ndim)), keepdim=True)


binarize_weight.register_autograd(_weight_backward)


@torch.library.custom_op("leanly::binarize", mutates_args=())
def binarize(x: Tensor, threshold: Tensor, scale: Tensor, axis: int) -> Tensor:
    """Return `scale` where a value reaches its threshold, `-scale` elsewhere.

    Args:
        x: float tensor of any shape.
        threshold: one a channel (Liu et al. 2020, "ReActNet").
        scale: a scalar above zero.
        axis: the dimension of the channels.
    """
    return _signs(x, along(threshold, x, axis)).mul_(scale)


@binarize.register_fake
def _(x: Tensor, threshold: Tensor, scale: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, threshold, scale, axis = inputs
    ctx.save_for_backward(x, threshold, scale)
    ctx.axis = axis


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient of a piecewise parabola in the sign's place (Liu et al. 2018, "Bi-Real Net")."""
    x, threshold, scale = ctx.saved_tensors
    # in place: most of what a step of training takes here is memory
    steps = (x - along(threshold, x, ctx.axis)).div_(scale)
    for_scale = signs(steps).mul_(grad).sum()
    for_x = steps.abs().mul_(-2).add_(2).clamp_(min=0).mul_(grad)
    for_threshold = -for_x.sum([place for place in range(x.ndim) if place != ctx.axis % x.ndim])
    for_scale = (for_scale - steps.mul_(for_x).sum()).reshape(scale.shape)
    return for_x, for_threshold, for_scale, None


binarize.register_autograd(_backward, setup_context=_setup)

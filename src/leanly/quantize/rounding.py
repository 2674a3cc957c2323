"""Rounding as something to be learned: each weight goes up or down, whichever serves its layer's output."""

from __future__ import annotations

import torch
from torch import Tensor

from leanly.graph.quantizer import along, fake_quantize
from leanly.quantize.affine import Affine

LOW, HIGH = -0.1, 1.1
"""A sigmoid stretched to this range and clamped to 0 to 1 reaches both ends."""


class Rounding:
    """The rounding of one weight, relaxed: `clamp(floor(w * scale) + h(v) + shift)` with h from 0 to 1.

    What the integers stand for may grow or shrink along: `gain` is the logarithm of by how much.

    Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization".

    Args:
        weight: float weight; rounding to the nearest is where it starts.
        affine: its integers.
    """

    def __init__(self, weight: Tensor, affine: Affine) -> None:
        self._affine = affine
        scale, self._shift = affine.along(weight)
        self._scale = scale
        steps = weight.detach() * scale
        self._floor = torch.floor(steps)
        rest = (steps - self._floor).clamp(1e-4, 1 - 1e-4)
        self.variable = torch.log((rest - LOW) / (HIGH - rest)).requires_grad_()
        self.gain = torch.zeros_like(affine.scale).requires_grad_()

    @property
    def scale(self) -> Tensor:
        """Steps per unit, now."""
        return self._affine.scale * torch.exp(-self.gain.detach())

    def share(self) -> Tensor:
        """Return how far each weight is up, from 0 to 1."""
        return (torch.sigmoid(self.variable) * (HIGH - LOW) + LOW).clamp(0, 1)

    def soft(self) -> Tensor:
        """Return the weight as it is on the way."""
        return self._floats(self.share())

    def hard(self) -> Tensor:
        """Return the weight with every rounding decided: each value is one of the integers'."""
        return self._floats((self.variable.detach() >= 0).to(self._floor.dtype))

    def undecided(self, sharpness: float) -> Tensor:
        """Return the sum of what each rounding lacks to a decision; the sharper, the nearer to one it must be."""
        return (1 - (2 * self.share() - 1).abs() ** sharpness).sum()

    def _floats(self, up: Tensor) -> Tensor:
        integers = (self._floor + up + self._shift).clamp(self._affine.low, self._affine.high)
        return (integers - self._shift) / self._scale * along(torch.exp(self.gain), integers, self._affine.axis)


class Step:
    """The scale of one activation, learned: Esser et al. 2020, "Learned Step Size Quantization".

    Args:
        affine: one scale for the whole tensor.
    """

    def __init__(self, affine: Affine) -> None:
        self._affine = affine
        self.variable = torch.log(affine.scale.detach().clone()).requires_grad_()

    @property
    def scale(self) -> Tensor:
        """Steps per unit, now."""
        return self.variable.detach().exp()

    def quantized(self, x: Tensor) -> Tensor:
        """Return the floats of the integers of `x`; the gradient passes the rounding straight through."""
        affine = self._affine
        return fake_quantize(x, self.variable.exp(), affine.shift, -1, affine.low, affine.high)


class Bias:
    """A bias, learned.

    Args:
        values: what it starts from; they stay as they are.
        size: of what its layer puts out, root of the mean square: a step is a share of it.
    """

    def __init__(self, values: Tensor, size: float) -> None:
        self._values, self._size = values.detach().clone(), size
        self.variable = torch.zeros_like(self._values).requires_grad_()

    def value(self) -> Tensor:
        """Return the bias as it is now."""
        return self._values + self._size * self.variable

"""Affine integers: `x_int = round(x * scale + shift)`, clamped, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from leanly.errors import SettingError

SMALLEST_RANGE = 1e-30
"""A narrower range than this has no float32 scale; a constant tensor gets a range of its own size instead."""


@dataclass(frozen=True)
class Affine:
    """Integers that stand for floats: `clamp(round(x * scale + shift), low, high)`.

    Args:
        scale: steps per unit, a scalar tensor or one value a channel (float32).
        shift: the zero point in steps, a whole number, shaped like `scale`.
        low, high: smallest and largest integer.
        axis: the channel dimension, -1 for one scale.
    """

    scale: Tensor
    shift: Tensor
    low: int
    high: int
    axis: int = -1

    def quantize(self, x: Tensor) -> Tensor:
        """Return the integers of `x`, as int32."""
        s, z = self._along(x)
        return (torch.round(x * s) + z).clamp(self.low, self.high).to(torch.int32)

    def dequantize(self, x_int: Tensor) -> Tensor:
        """Return the floats that the integers stand for."""
        s, z = self._along(x_int)
        return (x_int.to(s.dtype) - z) / s

    def _along(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.axis < 0:
            return self.scale, self.shift
        shape = [-1 if i == self.axis else 1 for i in range(x.ndim)]
        return self.scale.reshape(shape), self.shift.reshape(shape)

    def zero_point_form(self) -> tuple[Tensor, Tensor]:
        """Return (step, zero point) with `x = (x_int - zero point) * step`, ONNX's form."""
        return 1.0 / self.scale, self.shift.to(torch.int32)

    @staticmethod
    def from_zero_point_form(step: Tensor, zero_point: Tensor, low: int, high: int, axis: int = -1) -> Affine:
        """Return the affine integers of ONNX's step and zero point."""
        return Affine(1.0 / step, zero_point.to(step.dtype), low, high, axis)


def integer_range(bits: int, signed: bool, narrow: bool = False) -> tuple[int, int]:
    """Return the smallest and largest integer of `bits` bits; narrow leaves the smallest out (-127 to 127).

    Raises:
        SettingError: bits outside 2 to 8.
    """
    if not 2 <= bits <= 8:
        raise SettingError(f"{bits} bits can't be used", where="bits", remedy="use 2 to 8")
    if signed:
        return -(2 ** (bits - 1)) + int(narrow), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def from_range(
    minimum: Tensor, maximum: Tensor, *, bits: int, symmetric: bool, signed: bool, narrow: bool = False, axis: int = -1
) -> Affine:
    """Return the affine integers that cover a range; zero is always one of them, so that padding is exact.

    Args:
        minimum, maximum: the range, a scalar or one value a channel.
        bits: 2 to 8.
        symmetric: the range is made symmetric and zero sits in the middle.
        signed: integers from below zero.
        narrow: leave the smallest signed integer out.
        axis: channel dimension of the tensor, -1 for one scale.
    """
    low, high = integer_range(bits, signed, narrow)
    minimum, maximum = minimum.double().clamp(max=0), maximum.double().clamp(min=0)
    if symmetric:
        bound = torch.maximum(-minimum, maximum)
        bound = torch.where(bound < SMALLEST_RANGE, torch.ones_like(bound), bound)
        middle = 0 if signed else 2 ** (bits - 1)
        scale = (high - middle) / bound
        shift = torch.full_like(scale, middle)
    else:
        width = maximum - minimum
        width = torch.where(width < SMALLEST_RANGE, torch.ones_like(width), width)
        scale = (high - low) / width
        shift = (low - torch.round(minimum * scale)).clamp(low, high)
    return Affine(scale.float(), shift.float(), low, high, axis)


def fixed_point(y: np.ndarray, bits: int) -> np.ndarray:
    """Return `round(2**bits * y)` as int64: fixed point with `bits` fractional bits."""
    return np.rint(np.ldexp(np.asarray(y, dtype=np.float64), bits)).astype(np.int64)

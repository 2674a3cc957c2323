"""Affine integers: `x_int = round(x * scale + shift)`, clamped, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from leanly.errors import SettingError
from leanly.graph.quantizer import along
from leanly.scalars import check_whole, is_whole

SMALLEST_RANGE = 1e-30
"""A narrower range than this has no float32 scale; a constant tensor gets a range of its own size instead."""
INT64_LIMIT = 2.0**63


@dataclass(frozen=True)
class Affine:
    """Integers that stand for floats: `clamp(round(x * scale + shift), low, high)`.

    Args:
        scale: steps per unit (float32): a scalar tensor, one value a channel, or `[channels, groups]` for one value a
            group of a channel's last dimension.
        shift: the zero point in steps, shaped like `scale`; a whole number unless zero is no level (one symmetric bit).
        low, high: smallest and largest integer.
        axis: the channel dimension, -1 for one scale; 0 with groups.
    """

    scale: Tensor
    shift: Tensor
    low: int
    high: int
    axis: int = -1

    def quantize(self, x: Tensor) -> Tensor:
        """Return the integers of `x`, as int32.

        Raises:
            SettingError: `x` holds NaN, or the scale does not fit its shape.
        """
        s, z = self.along(x)
        whole = torch.floor(z)
        steps = (torch.round(x * s + (z - whole)) + whole).clamp(self.low, self.high)
        if bool(steps.isnan().any()):
            raise SettingError("NaN has no integer", where="Affine.quantize", remedy="look for NaN in the values")
        return steps.to(torch.int32)

    def dequantize(self, x_int: Tensor) -> Tensor:
        """Return the floats that the integers stand for."""
        s, z = self.along(x_int)
        return (x_int.to(s.dtype) - z) / s

    def along(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift in a shape that goes with `x`.

        Raises:
            SettingError: the scale is of another number of channels, or its groups do not divide the last dimension.
        """
        if not self._fits(x):
            scale, given = tuple(self.scale.shape), tuple(x.shape)
            raise SettingError(
                f"a scale of shape {scale} with axis={self.axis} does not fit a tensor of shape {given}",
                where="Affine",
                remedy="give one scale, one for each index of dimension `axis`, or [channels, groups], where they "
                "divide the last dimension",
            )
        return along(self.scale, x, self.axis), along(self.shift, x, self.axis)

    def _fits(self, x: Tensor) -> bool:
        count = self.scale.shape[0] if self.scale.ndim else 1
        if self.scale.ndim == 2:
            return x.ndim >= 2 and x.shape[-2] == count and x.shape[-1] % self.scale.shape[1] == 0
        return count == 1 or (0 <= self.axis < x.ndim and x.shape[self.axis] == count)

    def zero_point_form(self) -> tuple[Tensor, Tensor]:
        """Return (step, zero point) with `x = (x_int - zero point) * step`, ONNX's form.

        Raises:
            SettingError: zero is no level, so that there is no whole zero point.
        """
        if not torch.equal(self.shift, torch.floor(self.shift)):
            raise SettingError(
                "a shift between two integers has no zero point",
                where="Affine.zero_point_form",
                remedy="use two bits or more, or an asymmetric range",
            )
        return 1.0 / self.scale, self.shift.to(torch.int32)

    @staticmethod
    def from_zero_point_form(step: Tensor, zero_point: Tensor, low: int, high: int, axis: int = -1) -> Affine:
        """Return the affine integers of ONNX's step and zero point."""
        return Affine(1.0 / step, zero_point.to(step.dtype), low, high, axis)


def integer_range(bits: int, signed: bool, narrow: bool = False) -> tuple[int, int]:
    """Return the smallest and largest integer of `bits` bits; narrow leaves the smallest out (-127 to 127).

    Raises:
        SettingError: bits outside 1 to 8, or one narrow bit, which is none.
    """
    if not is_whole(bits, 1) or bits > 8:
        raise SettingError(f"{bits!r} bits can't be used", where="bits", remedy="use an int from 1 to 8")
    if narrow and signed and bits == 1:
        raise SettingError("one bit can't leave an integer out", where="narrow", remedy="use two bits or more")
    if signed:
        return -(2 ** (bits - 1)) + int(narrow), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def from_range(
    minimum: Tensor | float,
    maximum: Tensor | float,
    *,
    bits: int,
    symmetric: bool,
    signed: bool,
    narrow: bool = False,
    axis: int = -1,
) -> Affine:
    """Return the affine integers that cover a range.

    Zero is one of them, so that padding is exact; but one symmetric bit stands for the two ends and nothing else.

    Args:
        minimum, maximum: the range: a scalar, one value a channel, or `[channels, groups]`.
        bits: 1 to 8.
        symmetric: the range is made symmetric and zero sits in the middle.
        signed: integers from below zero.
        narrow: leave the smallest signed integer out.
        axis: channel dimension of the tensor, -1 for one scale.

    Raises:
        SettingError: bits out of their range, a range without an end, or one that ends before it begins.
    """
    low, high = integer_range(bits, signed, narrow)
    minimum, maximum = torch.as_tensor(minimum), torch.as_tensor(maximum)
    if minimum.shape != maximum.shape or minimum.ndim > 2:
        raise SettingError(
            f"a range from shape {tuple(minimum.shape)} to shape {tuple(maximum.shape)}",
            where="from_range",
            remedy="give both the same shape: a scalar, one value a channel, or [channels, groups]",
        )
    if not bool((minimum.isfinite() & maximum.isfinite()).all()):
        raise SettingError("a range ends in NaN or infinity", where="from_range", remedy="look for NaN in the values")
    if bool((minimum > maximum).any()):
        raise SettingError(
            "a range ends before it begins",
            where="from_range",
            remedy="give the smallest value first, then the largest",
        )
    minimum, maximum = minimum.double().clamp(max=0), maximum.double().clamp(min=0)
    if symmetric:
        bound = torch.maximum(-minimum, maximum)
        bound = torch.where(bound < SMALLEST_RANGE, torch.ones_like(bound), bound)
        middle = (low + high) / 2 if bits == 1 else 0 if signed else 2 ** (bits - 1)
        scale = (high - middle) / bound
        shift = torch.full_like(scale, middle)
    else:
        width = maximum - minimum
        width = torch.where(width < SMALLEST_RANGE, torch.ones_like(width), width)
        scale = (high - low) / width
        shift = (low - torch.round(minimum * scale)).clamp(low, high)
    return Affine(scale.float(), shift.float(), low, high, axis)


def fixed_point(y: np.ndarray, bits: int) -> np.ndarray:
    """Return `round(2**bits * y)` as int64: fixed point with `bits` fractional bits.

    Raises:
        SettingError: bits that are no whole number, or values that int64 can't hold.
    """
    check_whole(bits, 0, name="bits", where="fixed_point")
    scaled = np.rint(np.ldexp(np.asarray(y, dtype=np.float64), bits))
    if not bool((np.abs(scaled) < INT64_LIMIT).all()):
        raise SettingError(
            f"a value is NaN, infinite or 2**{63 - bits} and more",
            where="fixed_point",
            remedy="use fewer bits, or clip the values",
        )
    return scaled.astype(np.int64)

"""Steps in two bytes."""

from __future__ import annotations

import torch
from torch import Tensor

RECIPROCAL_ERROR = 1e-6
"""Share of a step that is lost by taking its reciprocal and back."""


def as_half(step: Tensor) -> Tensor:
    """Return steps as float16 where none of them loses by it."""
    half = step.half()
    return half if torch.allclose(half.to(step.dtype), step, rtol=RECIPROCAL_ERROR, atol=0) else step

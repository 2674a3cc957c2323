"""Streaming statistics of tensors: memory does not grow with the data."""

from __future__ import annotations

import torch
from torch import Tensor

from leanly.errors import DataError

BINS = 2048
MOST_COUNTED = 2**16
"""Values of one update that are put into bins; of more, evenly spaced ones. The minimum and maximum are of all."""


LARGEST = 1e38
"""Values beyond are as good as infinite: a few of them added up are."""


def check_finite(values: Tensor, where: str) -> tuple[float, float]:
    """Return the smallest and the largest of some values, one at least.

    Raises:
        DataError: there is NaN or infinity among them.
    """
    low, high = (float(value) for value in torch.aminmax(values))
    if not (abs(low) < LARGEST and abs(high) < LARGEST):
        raise DataError(
            f"{as_good_as_infinite(values)} while calibrating",
            where=where,
            remedy="look for NaN in the data of that batch, or an overflow in the model",
        )
    return low, high


def as_good_as_infinite(values: Tensor) -> str:
    """Name what makes values of no use: NaN and infinity, or numbers next to the largest there are."""
    return f"a value of {LARGEST:.0e} or more" if bool(values.isfinite().all()) else "NaN or infinity"


class Histogram:
    """Counts of values in equal bins; the range doubles, merging bins in pairs, whenever a value falls outside.

    Zero is always an edge between two bins: the range is `[-width * BINS, width * BINS)`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.minimum = float("inf")
        self.maximum = float("-inf")
        self.count = 0
        self._width = 0.0
        self._bins = torch.zeros(2 * BINS, dtype=torch.float64)

    def update(self, x: Tensor, batch: int) -> None:
        """Add a tensor's values.

        Raises:
            DataError: it holds NaN or infinity.
        """
        x = x.detach().reshape(-1).float()
        if x.numel() == 0:
            return
        low, high = check_finite(x, f"{self.name}, calibration batch {batch}")
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        self.count += x.numel()
        self._reach(max(-low, high))
        bound = self._width * BINS
        # an odd step does not stay in a few columns of a layer whose width is even
        x = x[:: x.numel() // MOST_COUNTED | 1]
        self._bins += torch.histc(x, bins=2 * BINS, min=-bound, max=bound).double()

    def _reach(self, bound: float) -> None:
        if self._width == 0.0:
            self._width = max(bound, 1e-30) * 1.0001 / BINS
        while bound > self._width * BINS:
            merged = self._bins.reshape(BINS, 2).sum(1)
            self._bins = torch.zeros_like(self._bins)
            self._bins[BINS // 2 : BINS // 2 + BINS] = merged
            self._width *= 2

    def bins(self) -> tuple[Tensor, Tensor]:
        """Return the bins' centres and counts, only from the first to the last that is not empty."""
        centres = (torch.arange(2 * BINS, dtype=torch.float64) - BINS + 0.5) * self._width
        used = torch.nonzero(self._bins).flatten()
        span = slice(int(used[0]), int(used[-1]) + 1)
        return centres[span].clamp(self.minimum, self.maximum), self._bins[span]

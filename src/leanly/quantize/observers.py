"""Observers: from a streamed histogram to the range that the integers will cover. One function each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from leanly.errors import SettingError
from leanly.graph.statistics import Histogram
from leanly.quantize.affine import from_range

Range = tuple[float, float]


def minmax(histogram: Histogram, bits: int, symmetric: bool) -> Range:
    """Return everything that was seen."""
    return histogram.minimum, histogram.maximum


def percentile(histogram: Histogram, bits: int, symmetric: bool, share: float = 0.9999) -> Range:
    """Return the range that holds `share` of the values on each side of zero, zero counted on neither."""
    centres, counts = histogram.bins()
    total = float(counts.sum())
    below = torch.cumsum(counts, 0) / total
    low = float(centres[int(torch.searchsorted(below, torch.tensor(1 - share)).clamp(max=len(centres) - 1))])
    high = float(centres[int(torch.searchsorted(below, torch.tensor(share)).clamp(max=len(centres) - 1))])
    return min(low, 0.0), max(high, 0.0)


def mse(histogram: Histogram, bits: int, symmetric: bool) -> Range:
    """Return the range, shrunk from what was seen, with the least mean squared error of rounding and clamping."""
    centres, counts = histogram.bins()
    best, best_error = (histogram.minimum, histogram.maximum), float("inf")
    for low_share, high_share in _shrinks(histogram, symmetric):
        low, high = histogram.minimum * low_share, histogram.maximum * high_share
        affine = from_range(torch.tensor(low), torch.tensor(high), bits=bits, symmetric=symmetric, signed=False)
        error = float((counts * (affine.dequantize(affine.quantize(centres)) - centres) ** 2).sum())
        if error < best_error:
            best, best_error = (low, high), error
    return best


def _shrinks(histogram: Histogram, symmetric: bool) -> list[tuple[float, float]]:
    shares = [1.0 - 0.02 * i for i in range(40)]
    if symmetric or histogram.minimum >= 0 or histogram.maximum <= 0:
        return [(share, share) for share in shares]
    coarse = shares[::3]
    return [(low, high) for low in coarse for high in coarse]


OBSERVERS: tuple[Callable[[Histogram, int, bool], Range], ...] = (mse, percentile, minmax)


def observer_named(name: str) -> Callable[[Histogram, int, bool], Range]:
    """Return the observer of that name.

    Raises:
        SettingError: there is none.
    """
    for observer in OBSERVERS:
        if observer.__name__ == name:
            return observer
    raise SettingError(
        f"there is no observer {name!r}", where="observer", remedy=f"use {', '.join(o.__name__ for o in OBSERVERS)}"
    )

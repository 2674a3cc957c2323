"""Observers: from a streamed histogram to the range that the integers will cover. One function each."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from leanly.errors import DataError, SettingError
from leanly.graph.statistics import Histogram
from leanly.quantize.affine import Affine, from_range

Range = tuple[float, float]
FEWEST = 1e-9
"""Share that a bin is taken to hold where only what lies outside was counted into it."""


def minmax(histogram: Histogram, bits: int, symmetric: bool) -> Range:
    """Return everything that was seen."""
    return histogram.minimum, histogram.maximum


def percentile(histogram: Histogram, bits: int, symmetric: bool, share: float = 0.9999) -> Range:
    """Return the range that leaves out at most `1 - share` of the values at each end.

    Raises:
        DataError: fewer values than it takes for one of them to lie outside.
    """
    centres, counts = histogram.bins()
    total = float(counts.sum())
    needed = math.ceil(float(f"{1 / (1 - share):.6g}"))
    if total < needed:
        raise DataError(
            f"{total:,.0f} values were seen, a percentile of {100 * share:.12g} % needs {needed:,}",
            where=histogram.name,
            remedy="more calibration rows (samples=), a lower percentile=, or observer='mse'",
        )
    below = torch.cumsum(counts, 0) / total
    low = float(centres[int(torch.searchsorted(below, torch.tensor(1 - share)).clamp(max=len(centres) - 1))])
    high = float(centres[int(torch.searchsorted(below, torch.tensor(share)).clamp(max=len(centres) - 1))])
    return min(low, 0.0), max(high, 0.0)


def mse(histogram: Histogram, bits: int, symmetric: bool) -> Range:
    """Return the range, shrunk from what was seen, with the least mean squared error of rounding and clamping."""
    centres, counts = histogram.bins()
    ends, affine = _shrunk(histogram, bits, symmetric)
    rounded = affine.dequantize(affine.quantize(centres.expand(len(ends), -1)))
    low, high = ends[(counts * (rounded - centres) ** 2).sum(1).argmin()].tolist()
    return low, high


def entropy(histogram: Histogram, bits: int, symmetric: bool) -> Range:
    """Return the range whose integers tell least else about how the values are spread: the least KL divergence.

    What lies outside is counted at the ends. Migacz 2017, "8-bit Inference with TensorRT".
    """
    centres, counts = histogram.bins()
    ends, affine = _shrunk(histogram, bits, symmetric)
    levels = affine.quantize(centres.expand(len(ends), -1)).long()
    inside = (centres >= ends[:, :1]) & (centres <= ends[:, 1:])
    divergences = [_divergence(counts, *one) for one in zip(levels, inside, strict=True)]
    low, high = ends[divergences.index(min(divergences))].tolist()
    return low, high


def _divergence(counts: Tensor, levels: Tensor, inside: Tensor) -> float:
    """Return KL(values, their integers spread evenly over the bins they came from), in nats."""
    if not bool(inside.any()):
        return float("inf")
    first, last = (int(place) for place in torch.nonzero(inside).flatten()[[0, -1]])
    kept, level = counts[first : last + 1].clone(), levels[first : last + 1]
    used = (kept > 0).double()
    size = int(levels.max()) + 1
    mass = torch.zeros(size, dtype=torch.float64).index_add_(0, level, kept)
    width = torch.zeros(size, dtype=torch.float64).index_add_(0, level, used)
    spread = used * (mass / width.clamp(min=1))[level]
    kept[0] += counts[:first].sum()
    kept[-1] += counts[last + 1 :].sum()
    p, q = kept / kept.sum(), (spread / spread.sum()).clamp(min=FEWEST)
    return float(torch.where(p > 0, p * (p / q).log(), torch.zeros_like(p)).sum())


def _shrunk(histogram: Histogram, bits: int, symmetric: bool) -> tuple[Tensor, Affine]:
    """Return the ranges that are tried, `[ranges, 2]`, the whole one first, and the integers of each of them."""
    shares = [1.0 - 0.02 * i for i in range(40)]
    if symmetric or histogram.minimum >= 0 or histogram.maximum <= 0:
        tried = [(share, share) for share in shares]
    else:
        tried = list(product(shares[::3], repeat=2))
    seen = torch.tensor([histogram.minimum, histogram.maximum], dtype=torch.float64)
    ends = seen * torch.tensor(tried, dtype=torch.float64)
    return ends, from_range(ends[:, 0], ends[:, 1], bits=bits, symmetric=symmetric, signed=False, axis=0)


OBSERVERS: tuple[Callable[[Histogram, int, bool], Range], ...] = (mse, percentile, entropy, minmax)


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

"""The codes of quantized weights: which they are, and what they take entropy-coded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from leanly.entropy import SEEN
from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.quantizer import along, of_weight
from leanly.graph.tensors import find

EXTRA = 2
"""Bytes of a coded tensor besides its codes and the table of their values."""
SMOOTH = 0.3
"""Share of a Laplacian in how frequent codes are taken to be: alike ones in a row would lead nowhere without."""
NARROWEST = 0.1
"""Mean distance from the code of zero that the Laplacian has at least."""


class QuantizedWeight(NamedTuple):
    """A weight and its quantizer: tensors of the graph, and settings."""

    value: Tensor
    scale: Tensor
    shift: Tensor
    axis: int
    low: int
    high: int

    def steps(self, values: Tensor) -> Tensor:
        """Return values in steps, none beyond the last code; those keep their gradient, or nothing would bring them
        back."""
        steps = values * along(self.scale, values, self.axis) + along(torch.round(self.shift), values, self.axis)
        return steps + (steps.clamp(self.low, self.high) - steps).detach()

    def value_of(self, codes: Tensor) -> Tensor:
        """Return what codes stand for."""
        return (codes - along(torch.round(self.shift), codes, self.axis)) / along(self.scale, codes, self.axis)

    def counts(self, codes: Tensor) -> Tensor:
        """Return how often each code stands in a tensor, from the lowest on."""
        return torch.bincount((codes.flatten() - self.low).long(), minlength=self.high - self.low + 1)


def quantized_weights(graph: Graph) -> list[QuantizedWeight]:
    """List the weights of a graph that are quantized."""
    found = []
    for node in graph.module.graph.nodes:
        if of_weight(node):
            value, scale, shift = (
                find(graph.module, str(argument(node, one).target)) for one in ("x", "scale", "shift")
            )
            axis, low, high = (argument(node, name) for name in ("axis", "low", "high"))
            found.append(QuantizedWeight(value, scale, shift, axis, low, high))
    return found


@torch.no_grad()
def coded_bytes(weights: Iterable[QuantizedWeight]) -> float:
    """Return what the codes of weights take, entropy-coded."""
    return sum(bytes_of(weight.counts(weight.steps(weight.value).round())) for weight in weights)


def bytes_of(counts: Tensor) -> float:
    """Return what a coder takes that learns how frequent codes are as it goes.

    Krichevsky and Trofimov 1981, "The performance of universal encoding".
    """
    found = counts[counts > 0].double()
    whole, before = found.sum(), torch.full((), SEEN * len(found), dtype=torch.float64)
    nats = torch.lgamma(whole + before) - torch.lgamma(before)
    nats -= (torch.lgamma(found + SEEN) - math.lgamma(SEEN)).sum()
    return float(nats) / math.log(256) + len(found) + EXTRA


def bits_of(counts: Tensor) -> Tensor:
    """Return what each code takes; zero, in the middle, takes least."""
    middle = len(counts) // 2
    distances = (torch.arange(len(counts), device=counts.device) - middle).abs()
    laplacian = torch.exp(-distances / (counts @ distances / counts.sum()).clamp_min(NARROWEST))
    shares = (counts + SEEN) / (counts + SEEN).sum()
    # no code is rarer than one further from zero: there would be no way to it
    shares = torch.cat([shares[:middle].cummax(0).values, shares[middle:].flip(0).cummax(0).values.flip(0)])
    return -((1 - SMOOTH) * shares + SMOOTH * laplacian / laplacian.sum()).log2()

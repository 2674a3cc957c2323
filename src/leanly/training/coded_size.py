"""The size of quantized weights, entropy-coded: what their codes take, and what makes training spend less on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.quantizer import along, of_weight
from leanly.graph.tensors import find

SEEN = 0.5
"""How often each code counts as seen before the first one, as the coder of a bundle has it."""
EXTRA = 2
"""Bytes of a coded tensor besides its codes and the table of their values."""
SMOOTH = 0.3
"""Share of a Laplacian in how frequent codes are taken to be: alike ones in a row would lead nowhere without."""
NARROWEST = 0.1
"""Mean distance from the code of zero that the Laplacian has at least."""
RAMP = 0.4
"""Share of all steps in which the size that is aimed at falls from that of the start to the one asked for."""
START = 1.0
"""What all bits together count beside the first loss."""
LASTING, PASSING = 100.0, 20.0
"""To which powers of how much too large the weights are the price of a bit grows: over all steps, and for this one.
With less of the latter it swings, and weights are lost that don't come back."""
DEAREST = 1.0
"""What a bit counts at most, in units of the loss: far beyond what leaves anything of a network."""


class CodedSize:
    """Presses the codes of quantized weights into fewer bytes while a network trains.

    A code takes the more bits the rarer it is in its tensor, interpolated between neighbours so that there is a
    gradient (Chou et al. 1989, "Entropy-constrained vector quantization"; Oktay et al. 2020, "Scalable Model
    Compression by Entropy Penalized Reparameterization"). The price of a bit is found on the way: it rises while the
    weights are larger than they should be by then, and falls while they are smaller.

    Args:
        graph: what is trained; its weights are read where they are.
        size: bytes to end with.

    Raises:
        SettingError: no weight is quantized.
    """

    def __init__(self, graph: Graph, size: int) -> None:
        self._graph, self.size = graph, size
        self._quantizers = [node for node in graph.module.graph.nodes if of_weight(node)]
        if not self._quantizers:
            raise SettingError(
                "no weight is quantized: there are no codes that could take fewer bytes",
                where="Settings.coded_size",
                remedy="put quantize.Static before the training, or leave coded_size out",
            )
        self._first = self.bytes()
        self.price: float | None = None
        """What a bit counts beside the loss; None before the first step."""

    @torch.no_grad()
    def bytes(self) -> float:
        """Return what the codes take as they are."""
        return sum(_coded_bytes(self._counts(node, self._codes(node))) for node in self._quantizers)

    def told(self) -> str:
        """Say what they take beside what was asked for."""
        return (
            f"the quantized weights take {self.bytes():,.0f} bytes entropy-coded, {self.size:,} are asked for: "
            "train for longer, or quantize to fewer bits"
        )

    def penalty(self, loss: float, done: float, step: float) -> Tensor:
        """Return what the codes count beside a loss, a scalar tensor.

        Args:
            loss: its value.
            done: share of all steps that were done before.
            step: share of all steps that one is.
        """
        bits, now = [], 0.0
        for node in self._quantizers:
            codes = self._codes(node)
            counts = self._counts(node, codes.detach())
            bits.append(_interpolated_bits(codes, counts))
            now += _coded_bytes(counts)
        total = torch.stack(bits).sum()
        if self.price is None:
            self.price = START * abs(loss) / max(float(total.detach()), 1.0)
        aim = self.size + (self._first - self.size) * max(0.0, 1 - done / RAMP)
        self.price = min(DEAREST, self.price * (now / aim) ** min(1.0, LASTING * step))
        return min(DEAREST, self.price * (now / aim) ** PASSING) * total

    def _codes(self, node: Node) -> Tensor:
        """Return a weight in steps from its lowest code on, not yet rounded, with the gradient of weight and scale."""
        weight, scale, shift = (
            find(self._graph.module, str(argument(node, name).target)) for name in ("x", "scale", "shift")
        )
        axis, low, high = (argument(node, name) for name in ("axis", "low", "high"))
        steps = weight * along(scale, weight, axis) + along(torch.round(shift), weight, axis)
        # what lies beyond the last code keeps its gradient, or nothing would bring it back
        return (steps + (steps.clamp(low, high) - steps).detach()).flatten() - low

    def _counts(self, node: Node, codes: Tensor) -> Tensor:
        """Return how often each code stands in a tensor, that of zero in the middle."""
        low, high = argument(node, "low"), argument(node, "high")
        return torch.bincount(codes.round().long(), minlength=high - low + 1)


def _coded_bytes(counts: Tensor) -> float:
    """Return what a coder takes that learns how frequent codes are as it goes.

    Krichevsky and Trofimov 1981, "The performance of universal encoding".
    """
    found = counts[counts > 0].double()
    whole, before = found.sum(), torch.full((), SEEN * len(found), dtype=torch.float64)
    nats = torch.lgamma(whole + before) - torch.lgamma(before)
    nats -= (torch.lgamma(found + SEEN) - math.lgamma(SEEN)).sum()
    return float(nats) / math.log(256) + len(found) + EXTRA


def _interpolated_bits(codes: Tensor, counts: Tensor) -> Tensor:
    bits = _bits_of_codes(counts)
    lower = codes.detach().floor().clamp(max=len(counts) - 2)
    above, place = codes - lower, lower.long()
    return (bits[place] * (1 - above) + bits[place + 1] * above).sum()


def _bits_of_codes(counts: Tensor) -> Tensor:
    places, count = torch.arange(len(counts), device=counts.device), counts.sum()
    middle = len(counts) // 2
    distances = (places - middle).abs()
    laplacian = torch.exp(-distances / (counts @ distances / count).clamp_min(NARROWEST))
    shares = (counts + SEEN) / (counts + SEEN).sum()
    # no code is rarer than one further from zero: weights would stay for good behind a gap
    shares = torch.cat([shares[:middle].cummax(0).values, shares[middle:].flip(0).cummax(0).values.flip(0)])
    return -((1 - SMOOTH) * shares + SMOOTH * laplacian / laplacian.sum()).log2()

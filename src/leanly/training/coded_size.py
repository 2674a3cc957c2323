"""How a network trains until its quantized weights, entropy-coded, are as small as was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.training.codes import QuantizedWeight, bits_of, bytes_of, coded_bytes, quantized_weights

RAMP = 0.5
"""Share of all steps in which the size that is aimed at falls from that of the start to the one asked for."""
SLACK = 0.05
"""How much larger weights may be while they train before their codes are chosen for the size."""
START = 1.0
"""What all bits together count beside the first loss."""
LASTING, PASSING = 100.0, 20.0
"""To which powers of how much too large the weights are the price of a bit grows: over all steps, and for this one.
With less of the latter it swings, and weights are lost that don't come back."""
HIGHEST = 1.0
"""What a bit counts at most, in units of the loss: far beyond what leaves anything of a network."""
CHEAPEST, DEAREST, HALVINGS = 2.0**-40, 2.0**10, 16
"""Of a bit beside the error, where codes are chosen: between which prices it is found, and how closely."""


class CodedSize:
    """Presses the codes of quantized weights into fewer bytes while a network trains.

    A code takes the more bits the rarer it is in its tensor, interpolated between neighbours so that there is a
    gradient (Chou et al. 1989, "Entropy-constrained vector quantization"; Oktay et al. 2020, "Scalable Model
    Compression by Entropy Penalized Reparameterization"). The price of a bit is found on the way: it rises while the
    weights are larger than they should be by then, and falls while they are smaller. The size that is aimed at falls
    by the cube of the steps left (Zhu and Gupta 2017, "To prune, or not to prune"). Weights that can't follow take the
    nearest code, the next one towards zero, or zero: the one that costs least in squared error and in bits.

    Args:
        graph: what is trained; its weights are read, and moved, where they are; frozen ones keep their codes.
        size: bytes to end with.

    Raises:
        SettingError: no weight is quantized, or those that are frozen leave no room.
    """

    def __init__(self, graph: Graph, size: int) -> None:
        self.size, self._weights = size, quantized_weights(graph)
        if not self._weights:
            raise SettingError(
                "no weight is quantized: there are no codes that could take fewer bytes",
                where="Settings.coded_size",
                remedy="put quantize.Static before the training, or leave coded_size out",
            )
        self._trained = [weight for weight in self._weights if weight.value.requires_grad]
        self._frozen = coded_bytes(weight for weight in self._weights if not weight.value.requires_grad)
        if not self._trained or self._frozen >= size:
            raise SettingError(
                f"the quantized weights that are frozen take {self._frozen:,.0f} bytes, {size:,} are asked for",
                where="Settings.coded_size",
                remedy="set requires_grad of more weights, or ask for a larger size",
            )
        self._first = self.bytes()
        self._aim, self._step = self._first, 0.0
        self.price: float | None = None
        """What a bit counts beside the loss; None before the first step."""

    def bytes(self) -> float:
        """Return what the codes take as they are."""
        return coded_bytes(self._weights)

    def told(self) -> str:
        """Say what they take beside what was asked for."""
        return (
            f"the quantized weights take {self.bytes():,.0f} bytes entropy-coded, {self.size:,} are asked for: "
            "train for longer, or quantize to fewer bits"
        )

    def begin(self, step: int, steps: int) -> None:
        """Say which of all steps comes next, from 0 on."""
        self._step = 1 / steps
        self._aim = self.size + (self._first - self.size) * max(0.0, 1 - (step + 1) / steps / RAMP) ** 3

    def penalty(self, loss: float) -> Tensor:
        """Return what the codes count beside a loss, a scalar tensor."""
        bits, now = [], self._frozen
        for weight in self._trained:
            steps = weight.steps(weight.value)
            counts = weight.counts(steps.detach().round())
            bits.append(_interpolated_bits(steps.flatten() - weight.low, bits_of(counts)))
            now += bytes_of(counts)
        total = torch.stack(bits).sum()
        if self.price is None:
            self.price = START * abs(loss) / max(float(total.detach()), 1.0)
        self.price = min(HIGHEST, self.price * (now / self._aim) ** min(1.0, LASTING * self._step))
        return min(HIGHEST, self.price * (now / self._aim) ** PASSING) * total

    @torch.no_grad()
    def hold(self, slack: float = 0.0) -> None:
        """Choose the codes anew where they take more than they should by now.

        Args:
            slack: share by which they may.
        """
        if self.bytes() <= self._aim * (1 + slack):
            return
        offers = [offer_for(weight) for weight in self._trained]
        price = price_of(offers, self._aim - self._frozen)
        for weight, offer in zip(self._trained, offers, strict=True):
            codes = offer.chosen(price)
            weight.value.copy_(torch.where(codes == offer.codes[0], weight.value, weight.value_of(codes)))


class Offer(NamedTuple):
    """Codes that each weight of a tensor may take, the nearest first, what they lose, and their bits."""

    weight: QuantizedWeight
    codes: Sequence[Tensor]
    errors: Sequence[Tensor]
    bits: Sequence[Tensor]

    def chosen(self, price: float) -> Tensor:
        """Return the codes that cost least at a price of a bit."""
        chosen, least = self.codes[0], self.errors[0] + price * self.bits[0]
        for codes, errors, bits in zip(self.codes[1:], self.errors[1:], self.bits[1:], strict=True):
            costs = errors + price * bits
            chosen, least = torch.where(costs < least, codes, chosen), torch.minimum(costs, least)
        return chosen


def offer_for(weight: QuantizedWeight) -> Offer:
    """Return what a weight may be rounded to.

    Errors are a share of what is left of the tensor (Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based
    Pruning").
    """
    nearest = weight.steps(weight.value).round()
    bits = bits_of(weight.counts(nearest))
    smallest = weight.scale.max() ** -2  # where no weight is left
    left = torch.maximum(weight.value_of(nearest).square().sum(), smallest)
    codes = (nearest, nearest - nearest.sign(), torch.zeros_like(nearest))
    errors = [(weight.value - weight.value_of(one)).square() / left for one in codes]
    return Offer(weight, codes, errors, [bits[(one - weight.low).long()] for one in codes])


def _interpolated_bits(places: Tensor, bits: Tensor) -> Tensor:
    """Return what values between codes take in all.

    Args:
        places: in steps from the lowest code on.
        bits: of each code.
    """
    lower = places.detach().floor().clamp(max=len(bits) - 2)
    above, below = places - lower, lower.long()
    return (bits[below] * (1 - above) + bits[below + 1] * above).sum()


def price_of(offers: Sequence[Offer], size: float) -> float:
    """Return the least price of a bit at which what is chosen takes no more bytes than asked for."""

    def fits(price: float) -> bool:
        return sum(bytes_of(offer.weight.counts(offer.chosen(price))) for offer in offers) <= size

    if fits(0.0):
        return 0.0
    low, high = math.log(CHEAPEST), math.log(DEAREST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(math.exp(middle)) else (middle, high)
    return math.exp(high)

"""Weights that are zero while a network trains: they stay where they are, or move to where they cost least."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from leanly.graph import Graph

EVERY = 16
"""Steps after which it is found anew which weights are zero."""
GROWN, STEPS = "grown", "steps_of_zeros"
"""In the optimizer's state of a weight, which checkpoints hold: what steps would have made of all of it; a count."""


class Zeros:
    """The zeros in weights of two dimensions and more, as many as at the start.

    Lin et al. 2020, "Dynamic Model Pruning with Feedback": gradients at the zeros are added up beside the network, and
    the smallest of what that makes of all weights are zero next.

    Args:
        graph: what is trained.
        optimizer: of it.
        regrow: whether zeros move, within their own tensor.
    """

    def __init__(self, graph: Graph, optimizer: Optimizer, regrow: bool) -> None:
        weights = [parameter for parameter in graph.parameters() if parameter.ndim > 1 and parameter.requires_grad]
        self._optimizer, self._regrow = optimizer, regrow
        self._weights = [weight for weight in weights if bool((weight.detach() == 0).any())]

    @torch.no_grad()
    def step(self) -> None:
        """Let the optimizer move the weights, and set as many to zero as were before."""
        before = [weight.detach().clone() for weight in self._weights]
        self._optimizer.step()
        for weight, old in zip(self._weights, before, strict=True):
            weight.copy_(self._grown(weight, old) if self._regrow else weight * (old != 0))

    def _grown(self, weight: Tensor, old: Tensor) -> Tensor:
        state = self._optimizer.state[weight]
        grown = state.setdefault(GROWN, old.clone())
        steps = state.setdefault(STEPS, torch.zeros(()))
        grown += weight - old
        steps += 1
        kept = old != 0
        if int(steps) % EVERY == 0:
            order = grown.abs().flatten().argsort(stable=True)
            kept = torch.ones_like(kept).flatten()
            kept[order[: int((old == 0).sum())]] = False
            kept = kept.reshape(old.shape)
        return grown * kept

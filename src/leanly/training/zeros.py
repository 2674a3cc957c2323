"""Weights that are zero while a network trains: they stay where they are, or move to where they cost least."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from leanly.graph import Graph
from leanly.graph.zeros import largest

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
        pairs = [(weight, weight.detach() != 0) for weight in weights]
        self._optimizer, self._regrow = optimizer, regrow
        self._kept = [(weight, kept) for weight, kept in pairs if not bool(kept.all())]

    @torch.no_grad()
    def step(self) -> None:
        """Let the optimizer move the weights, and set as many to zero as were before."""
        if self._regrow:
            self._step_and_regrow()
            return
        self._optimizer.step()
        for weight, kept in self._kept:
            weight.mul_(kept)

    def _step_and_regrow(self) -> None:
        before = [weight.detach().clone() for weight, _ in self._kept]
        self._optimizer.step()
        for (weight, _), old in zip(self._kept, before, strict=True):
            state = self._optimizer.state[weight]
            grown = state.setdefault(GROWN, old.clone())
            steps = state.setdefault(STEPS, torch.zeros(()))
            grown += weight - old
            steps += 1
            kept = old != 0  # a run that goes on began with other zeros
            if int(steps) % EVERY == 0:
                kept = largest(grown.abs(), 1 - float(kept.sum()) / kept.numel())
            weight.copy_(grown * kept)

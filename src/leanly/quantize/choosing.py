"""Choosing: one option for each layer, so that errors sum up to the least inside limits on what the options cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Limit:
    """What options may cost together, such as seconds or bits.

    Args:
        costs: by layer and option.
        most: for all layers together.
    """

    costs: Mapping[str, Mapping[int, float]]
    most: float


def least_error(errors: Mapping[str, Mapping[int, float]], limits: Sequence[Limit]) -> dict[str, int] | None:
    """Return an option for each layer: of those inside all limits, the choice whose errors sum up to the least.

    A knapsack with one choice a layer, solved as an integer program (Yao et al. 2021, "HAWQ-V3: Dyadic Neural Network
    Quantization").

    Args:
        errors: by layer and option, such as the bits of its weights.
        limits: on what the options cost.

    Returns:
        None where no choice is inside all limits.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    pairs = [(layer, option) for layer, options in errors.items() for option in options]
    owners = np.array([layer for layer, _ in pairs])
    rules = [LinearConstraint(np.stack([owners == layer for layer in errors]).astype(float), 1, 1)]
    for limit in limits:
        costs = np.array([limit.costs[layer][option] for layer, option in pairs])
        unit = max(np.abs(costs).max(), abs(limit.most)) or 1.0
        rules.append(LinearConstraint(costs[None] / unit, ub=limit.most / unit))
    lost = np.array([errors[layer][option] for layer, option in pairs])
    found = milp(lost / (lost.max() or 1.0), integrality=np.ones(len(pairs)), bounds=Bounds(0, 1), constraints=rules)
    if found.x is None:
        return None
    return dict(pair for pair, share in zip(pairs, found.x, strict=True) if share > 0.5)

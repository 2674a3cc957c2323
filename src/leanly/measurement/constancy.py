"""Predictions that are the same for every row: no change of a network shows in a metric of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from leanly.metrics import Metric
from leanly.structure import flatten


def says_the_same(predictions: Any, metric: Metric) -> bool:
    """Say whether every row is predicted alike: the same class where a metric counts right rows, else the same numbers.

    Args:
        predictions: numpy in the model's own structure, the rows in dimension 0.
        metric: that scores them.
    """
    leaves = [np.asarray(leaf) for leaf in flatten(predictions)[1]]
    if not leaves or any(leaf.ndim == 0 or len(leaf) < 2 for leaf in leaves):
        return False
    if metric.per_example is not None:
        leaves = [_classes(leaf) for leaf in leaves]
    return all(bool((leaf == leaf[:1]).all()) for leaf in leaves)


def _classes(leaf: np.ndarray) -> np.ndarray:
    """Return the classes that logits stand for: the largest, or the sign of a single one."""
    if leaf.ndim > 1 and leaf.shape[-1] > 1:
        return leaf.argmax(-1)
    return leaf > 0 if leaf.dtype.kind == "f" else leaf

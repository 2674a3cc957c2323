"""Scores: a criterion's saliencies as what each class of indices holds of each dimension of each parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags
from torch import Tensor

from leanly.errors import SettingError
from leanly.graph import Graph, tensors
from leanly.graph.coupling import Coupling
from leanly.graph.coupling.units import Matrix
from leanly.prune.importance import magnitude

ALIKE = 1e-9
"""Saliencies along a dimension that differ by no more of the largest do so by rounding."""


@dataclass(frozen=True)
class Held:
    """What a criterion says of each class of indices.

    Args:
        shares: for each class (row) its share of each dimension of each parameter (column); a column adds up to 1.
        worth: of each column: 1, or what its parameter scores in all where that can be compared between layers.
    """

    shares: Matrix
    worth: np.ndarray


def held_by(coupling: Coupling, saliency: dict[str, Tensor], *, comparable: bool = False) -> Held:
    """Return what each class holds.

    Args:
        saliency: one tensor a parameter, in its shape; those left out hold nothing.
        comparable: saliencies are in units of the loss; dimensions along which they don't differ, as those of the
            inputs of filters that were scored whole, then say nothing.
    """
    columns, rows, values = [], [], []
    worth = np.zeros(len(coupling.parameter_dims)) if comparable else np.ones(len(coupling.parameter_dims))
    for number, place in enumerate(coupling.parameter_dims):
        held = saliency.get(place.name)
        if held is None:
            continue
        others = [dim for dim in range(held.ndim) if dim != place.dim]
        along = (held.sum(others, dtype=torch.float64) if others else held.double()).numpy()
        total = along.sum()
        if total > 0:
            rows.append(place.classes)
            columns.append(np.full(len(along), number))
            values.append(along / total)
            if comparable and np.ptp(along) > ALIKE * along.max():
                worth[number] = total
    shape = (coupling.classes, len(coupling.parameter_dims))
    if not rows:
        return Held(csr_matrix(shape), worth)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return Held(csr_matrix(entries, shape=shape), worth)


def everywhere(coupling: Coupling, held: Held, graph: Graph) -> tuple[Held, list[str]]:
    """Return what is held with the shares of magnitude where a criterion says nothing about all units of an axis.

    Args:
        held: from `held_by`.
        graph: whose weights are read.

    Returns:
        What is held, and the parameters along which magnitude decides.
    """
    scores = coupling.units @ (held.shares @ held.worth)
    silent = np.zeros(coupling.classes)
    for axis in (axis for group in coupling.groups for axis in group.axes):
        if not scores[axis.units].any():
            silent[coupling.units[axis.units].indices] = 1
    if not silent.any():
        return held, []
    told = [number for number, place in enumerate(coupling.parameter_dims) if silent[place.classes].any()]
    weights = held_by(coupling, checked(graph, magnitude(graph), magnitude.__name__))
    worth = held.worth.copy()
    worth[[number for number in told if not worth[number]]] = worth[worth > 0].mean() if worth.any() else 1.0
    names = dict.fromkeys(coupling.parameter_dims[number].name for number in told)
    return Held(held.shares + diags(silent) @ weights.shares, worth), list(names)


def checked(graph: Graph, found: Any, name: str) -> dict[str, Tensor]:
    """Return a criterion's answer on the CPU, under all names of each parameter.

    Raises:
        SettingError: it is no dict of finite tensors, none negative, in the shapes of parameters.
    """
    remedy = "return {parameter name: tensor of its shape}, finite and not negative"
    if isinstance(found, dict) and not found:
        raise SettingError(
            "it finds nothing in this network that it can judge",
            where=f"importance {name}",
            remedy="use leanly.prune.magnitude, which reads every weight of two dimensions or more, or leave it whole",
        )
    if not isinstance(found, dict):
        raise SettingError(f"it returned a {type(found).__name__}", where=f"importance {name}", remedy=remedy)
    every = tensors.every(graph.module)
    aliases = tensors.names_by_tensor(every)
    result: dict[str, Tensor] = {}
    for parameter, held in found.items():
        held = held.detach() if isinstance(held, Tensor) else held
        wrong = ""
        if parameter not in every:
            wrong = "there is no such parameter"
        elif not isinstance(held, Tensor) or held.shape != every[parameter].shape:
            wrong = f"its saliency is no tensor of shape {list(every[parameter].shape)}"
        elif held.is_complex():
            wrong = "its saliency is complex"
        elif held.numel() and not 0 <= float(held.min()) <= float(held.max()) < float("inf"):
            wrong = "its saliency is negative, NaN or infinite"
        if wrong:
            raise SettingError(f"{parameter}: {wrong}", where=f"importance {name}", remedy=remedy)
        for alias in aliases[id(every[parameter])]:
            result[alias] = held.cpu()
    return result

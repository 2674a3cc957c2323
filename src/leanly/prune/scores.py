"""Scores: a criterion's saliencies as what each class of indices holds of each dimension of each parameter."""

from __future__ import annotations

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


def shares(coupling: Coupling, saliency: dict[str, Tensor]) -> Matrix:
    """Return for each class (row) its share of each dimension of each parameter (column); a column adds up to 1.

    Args:
        saliency: one tensor a parameter, in its shape; those left out hold nothing.
    """
    columns, rows, values = [], [], []
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
    shape = (coupling.classes, len(coupling.parameter_dims))
    if not rows:
        return csr_matrix(shape)
    return csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)


def everywhere(coupling: Coupling, held: Matrix, graph: Graph) -> tuple[Matrix, list[str]]:
    """Return the shares with those of magnitude where a criterion says nothing about all units of an axis.

    Args:
        held: from `shares`.
        graph: whose weights are read.

    Returns:
        The shares, and the parameters along which magnitude decides.
    """
    scores = np.asarray((coupling.units @ held).sum(1)).ravel()
    silent = np.zeros(coupling.classes)
    for axis in (axis for group in coupling.groups for axis in group.axes):
        if not scores[axis.units].any():
            silent[coupling.units[axis.units].indices] = 1
    if not silent.any():
        return held, []
    names = [place.name for place in coupling.parameter_dims if silent[place.classes].any()]
    weights = checked(graph, magnitude(graph), magnitude.__name__)
    return held + diags(silent) @ shares(coupling, weights), list(dict.fromkeys(names))


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
            remedy="use leanly.prune.magnitude, which reads every weight",
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
        elif held.numel() and not 0 <= float(held.min()) <= float(held.max()) < float("inf"):
            wrong = "its saliency is negative, NaN or infinite"
        if wrong:
            raise SettingError(f"{parameter}: {wrong}", where=f"importance {name}", remedy=remedy)
        for alias in aliases[id(every[parameter])]:
            result[alias] = held.cpu()
    return result

"""Operators that run along some dimensions and leave the others alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import fx

from leanly.graph.coupling.rules.elementwise import pointwise
from leanly.graph.coupling.variables import Array, Dims
from leanly.graph.coupling.wiring import Wiring
from leanly.graph.nodes import argument, argument_names


def summed(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Add up: what left is missing from the sum, which is all that a cut does where it was zero."""
    return _reduced(node, wiring, lambda dim: wiring.adds_up(dim, wiring.sources(node)[0]))


def averaged(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Average: what stays is divided by a smaller count."""
    return _reduced(node, wiring, wiring.variables.changes_statistics)


def compared(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Compare two tensors along a dimension by their product and their lengths, which add up over it."""
    names = ("x1", "x2")
    shape = np.broadcast_shapes(*(wiring.shape(argument(node, name)) for name in names))
    both = wiring.broadcast([wiring.given(node, name) for name in names], shape)
    dim = argument(node, "dim") % len(shape)
    for name in names:
        wiring.adds_up(both[dim], argument(node, name))
    return [[*both[:dim], *both[dim + 1 :]]]


def selected(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Pick, rank or multiply along a dimension: its values compete with each other, it stays whole."""
    if len(wiring.sources(node)) > 1:  # the larger of two tensors, element by element
        return pointwise(node, wiring)
    return _reduced(node, wiring, lambda dim: wiring.hold(node, dim))


def scanned(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Keep the shape, but let every index along a dimension see the others (softmax, cumsum, sort)."""
    x = wiring.dims(wiring.sources(node)[0])
    for dim in _dims(node, len(x)):
        wiring.hold(node, x[dim])
    along = set(_dims(node, len(x)))
    return [
        [wiring.variables.solid(size) if dim in along else x[dim] for dim, size in enumerate(shape)]
        for shape in wiring.shapes(node)
    ]


def _reduced(node: fx.Node, wiring: Wiring, along: Callable[[Array], object]) -> list[Dims]:
    x: list[Array] = wiring.dims(wiring.sources(node)[0])
    dims = _dims(node, len(x))
    for dim in dims:
        along(x[dim])
    kept = [wiring.variables.solid(1) if dim in dims else array for dim, array in enumerate(x)]
    left = [array for dim, array in enumerate(x) if dim not in dims]
    return [kept if len(shape) == len(x) else left for shape in wiring.shapes(node)]


def _dims(node: fx.Node, rank: int) -> list[int]:
    """Return the dimensions an operator runs along: all, where none is named."""
    names = argument_names(node)
    dims = argument(node, "dim") if "dim" in names else None
    if dims is None or dims == []:
        return list(range(rank))
    return [dim % max(rank, 1) for dim in ([dims] if isinstance(dims, int) else dims)]


RULES = {
    "cosine_similarity": compared,
    **dict.fromkeys(("sum", "nansum", "norm", "linalg_vector_norm", "count_nonzero"), summed),
    **dict.fromkeys(("mean", "nanmean", "var", "std", "var_mean", "std_mean"), averaged),
    **dict.fromkeys(
        (
            *("amax", "amin", "max", "min", "argmax", "argmin", "prod", "any", "all", "logsumexp", "median", "aminmax"),
            *("mode", "nanmedian", "kthvalue"),
        ),
        selected,
    ),
    **dict.fromkeys(
        (
            *("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp", "cummax"),
            *("cummin", "sort", "argsort", "topk"),
        ),
        scanned,
    ),
}

"""Reading by index: tables, and tensors whose values say where to read."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from leanly.graph.coupling.variables import Dims
from leanly.graph.coupling.wiring import Wiring
from leanly.graph.nodes import argument


def embedding(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Read rows of a table: the vocabulary stays whole."""
    table = wiring.given(node, "weight")
    wiring.variables.freeze(table[0])
    return [[*wiring.given(node, "indices"), table[1]]]


def embedding_bag(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Read rows of a table and make one of them, a bag: the vocabulary stays whole."""
    table = wiring.given(node, "weight")
    wiring.variables.freeze(table[0])
    for weights in wiring.given(node, "per_sample_weights") or ():
        wiring.hold(node, weights)
    return [
        [*map(wiring.variables.solid, shape[:1]), *([table[1]] if len(shape) > 1 else [])]
        for shape in wiring.shapes(node)
    ]


def index(node: fx.Node, wiring: Wiring) -> list[Dims] | None:
    """Read at integer indices: the dimensions that are indexed, and those of the indices, stay whole.

    A parameter that is read so is a table, whose rows are no units; of anything else it is worth telling.
    """
    x, indices = wiring.given(node, "self"), argument(node, "indices")
    given = [place for place, item in enumerate(indices) if item is not None]
    if any(wiring.results[indices[place].name][1] in (torch.bool, torch.uint8) for place in given):
        return None
    is_table = argument(node, "self").op == "get_attr"
    for place in given:
        if is_table:
            wiring.variables.freeze(x[place])
        else:
            wiring.hold(node, x[place])
        for dim in wiring.dims(indices[place]):
            wiring.hold(node, dim)
    shape = wiring.shape(node)
    left = [dim for place, dim in enumerate(x) if place not in given]
    count = len(shape) - len(left)
    first = given[0] if given == list(range(given[0], given[-1] + 1)) else 0
    read = [wiring.variables.solid(size) for size in shape[first : first + count]]
    return [[*left[:first], *read, *left[first:]]]


def index_select(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Read at one list of indices; where it is a constant it is known what is read, and follows a cut."""
    x, places = list(wiring.given(node, "self")), argument(node, "index")
    dim = argument(node, "dim") % len(x)
    if places.op == "get_attr":
        x[dim] = x[dim][np.atleast_1d(wiring.tensor(places).cpu().numpy())]
        wiring.variables.same(x[dim], wiring.dims(places)[0])
    else:
        wiring.hold(node, x[dim])
        x[dim] = wiring.variables.solid(wiring.shape(node)[dim])
    return [x]


RULES = {"embedding": embedding, "embedding_bag": embedding_bag, "index": index, "index_select": index_select}

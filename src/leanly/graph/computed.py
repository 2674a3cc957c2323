"""Weights that are computed from parameters alone as the network runs, as weight norm does: stored once instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from leanly.graph.graph import Graph
from leanly.graph.layers import LAYERS
from leanly.graph.nodes import MATRICES, argument, reads_tensor
from leanly.graph.tensors import drop_unread, find, put, read_attr

OURS = "leanly"
"""Operators of this name space round: what they give is no weight to start from."""


def store_weights(graph: Graph) -> Graph:
    """Return a graph whose layers read their weights instead of computing them.

    Weight norm, spectral norm and other parametrizations are such weights. What depends on the input, on random
    numbers, or is quantized, stays.
    """
    graph = graph.clone()
    store_in(graph.module)
    return graph


def store_in(module: GraphModule) -> None:
    """Do what `store_weights` does, to the module itself."""
    computed = [
        weight
        for layer in module.graph.nodes
        if layer.target in LAYERS and layer.target not in MATRICES
        if not reads_tensor(weight := argument(layer, "weight")) and _can_be_stored(weight)
    ]
    for weight in dict.fromkeys(computed):
        name = f"stored_weights.{weight.name}"
        with torch.no_grad():
            put(module, name, nn.Parameter(_value(module, weight).detach().clone()))
        with module.graph.inserting_before(weight):
            weight.replace_all_uses_with(read_attr(module, name))
    if computed:
        module.graph.eliminate_dead_code()
        drop_unread(module)
        module.recompile()


def is_constant(value: Any) -> bool:
    """Say whether a node's value is the same for all inputs: it reads parameters and buffers, directly or not."""
    return isinstance(value, Node) and all(map(_is_fixed, _behind(value)))


def _is_fixed(node: Node) -> bool:
    return node.op == "get_attr" or (node.op == "call_function" and bool(node.all_input_nodes))


def _can_be_stored(value: Any) -> bool:
    return isinstance(value, Node) and all(
        reads_tensor(node) or (_is_fixed(node) and _is_pure(node)) for node in _behind(value)
    )


def _is_pure(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable or schema.name.startswith(f"{OURS}::"):
        return False
    return torch.Tag.nondeterministic_seeded not in node.target.tags  # type: ignore[union-attr]


def _behind(value: Node) -> Iterator[Node]:
    """Yield a node and all that it is computed from, what is given first before the rest."""
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop()
        yield node
        new = [before for before in reversed(node.all_input_nodes) if before not in seen]
        seen.update(new)
        waiting += new


def _value(module: GraphModule, value: Node) -> Tensor:
    needed, known = set(_behind(value)), dict[Node, Any]()
    for node in module.graph.nodes:
        if node in needed:
            args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = find(module, str(node.target)) if reads_tensor(node) else node.target(*args, **kwargs)
    return known[value]

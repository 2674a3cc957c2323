"""Weights that are computed from parameters alone as the network runs, as weight norm does: stored once instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
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
    module = graph.module
    computed = [
        weight
        for layer in module.graph.nodes
        if layer.target in LAYERS and layer.target not in MATRICES
        if _is_constant(weight := argument(layer, "weight")) and not reads_tensor(weight)
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
    return graph


def _is_constant(value: Any) -> bool:
    if not isinstance(value, Node) or reads_tensor(value):
        return isinstance(value, Node)
    schema = getattr(value.target, "_schema", None)
    if value.op != "call_function" or schema is None or schema.is_mutable or schema.name.startswith(f"{OURS}::"):
        return False
    if torch.Tag.nondeterministic_seeded in value.target.tags:  # type: ignore[union-attr]
        return False
    return all(_is_constant(before) for before in value.all_input_nodes)


def _value(module: GraphModule, node: Node) -> Any:
    if reads_tensor(node):
        return find(module, str(node.target))
    args, kwargs = map_arg((node.args, node.kwargs), lambda before: _value(module, before))
    return node.target(*args, **kwargs)  # type: ignore[operator]

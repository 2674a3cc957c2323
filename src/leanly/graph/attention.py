"""Attention written out as products and a softmax, so that quantizers can stand between them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from leanly.graph.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.shapes import propagate

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
MASKED = -1e9


def expand_attention(graph: Graph) -> Graph:
    """Return a graph without scaled_dot_product_attention: q @ k^T, scale, mask, softmax, @ v (eval mode).

    Causal or grouped-query attention stays as it is.
    """
    graph = graph.clone()
    graph.eval()
    module = graph.module
    nodes = [node for node in module.graph.nodes if node.target is ATTENTION and not _is_special(node)]
    if not nodes:
        return graph
    seen = propagate(graph, 2)
    for node in nodes:
        _expand(module, node, seen)
    module.graph.eliminate_dead_code()
    module.recompile()
    return graph


def _is_special(node: Node) -> bool:
    return bool(argument(node, "is_causal")) or bool(argument(node, "enable_gqa"))


def _expand(module: torch.fx.GraphModule, node: Node, seen: dict[str, Any]) -> None:
    query, key, value = (argument(node, name) for name in ("query", "key", "value"))
    mask = argument(node, "attn_mask")
    given = argument(node, "scale")
    scale = seen[query.name][0][-1] ** -0.5 if given is None else given
    with module.graph.inserting_before(node):

        def call(target: Any, *args: Any) -> Node:
            new = module.graph.call_function(target, args)
            new.meta = dict(node.meta)
            return new

        scores = call(aten.matmul.default, query, call(aten.transpose.int, key, -2, -1))
        scores = call(aten.mul.Tensor, scores, scale)
        if isinstance(mask, Node):
            if seen[mask.name][1] is torch.bool:
                scores = call(aten.where.ScalarOther, mask, scores, MASKED)
            else:
                scores = call(aten.add.Tensor, scores, mask)
        node.replace_all_uses_with(call(aten.matmul.default, call(aten.softmax.int, scores, -1), value))
    module.graph.erase_node(node)

"""Attention written out as products and a softmax: quantizers can stand between them, and runtimes fuse them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx import Node

from leanly.graph.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.shapes import propagate

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
MASKED = -1e9


def expand_attention(graph: Graph) -> Graph:
    """Return a graph without scaled_dot_product_attention: q @ k^T, scale, mask, softmax, @ v (eval mode).

    Causal or grouped-query attention stays as it is. What may look at nothing gets the mean of the values.
    """
    graph = graph.clone()
    graph.eval()
    write_out_attention(graph.module.graph, graph, zeros=False)
    graph.module.recompile()
    return graph


def write_out_attention(nodes: fx.Graph, graph: Graph, *, zeros: bool) -> None:
    """Do the same, in place, to the graph's nodes or to a copy of them.

    Args:
        nodes: are changed.
        graph: tells their shapes.
        zeros: what may look at nothing gets zeros, as torch gives them; costs an integer network a conversion.
    """
    attentions = [node for node in nodes.nodes if node.target is ATTENTION and not _is_special(node)]
    if attentions:
        seen = propagate(graph, 2)
        for node in attentions:
            _expand(node, seen, zeros)
        nodes.eliminate_dead_code()


def _is_special(node: Node) -> bool:
    return bool(argument(node, "is_causal")) or bool(argument(node, "enable_gqa"))


def _expand(node: Node, seen: dict[str, Any], zeros: bool) -> None:
    query, key, value = (argument(node, name) for name in ("query", "key", "value"))
    mask = argument(node, "attn_mask")
    given = argument(node, "scale")
    scale = seen[query.name][0][-1] ** -0.5 if given is None else given
    with node.graph.inserting_before(node):

        def call(target: Any, *args: Any) -> Node:
            new = node.graph.call_function(target, args)
            new.meta = dict(node.meta)
            return new

        scores = call(aten.matmul.default, query, call(aten.transpose.int, key, -2, -1))
        scores = call(aten.mul.Tensor, scores, scale)
        boolean = isinstance(mask, Node) and seen[mask.name][1] is torch.bool
        if boolean:
            scores = call(aten.where.ScalarOther, mask, scores, MASKED)
        elif isinstance(mask, Node):
            scores = call(aten.add.Tensor, scores, mask)
        mixed = call(aten.matmul.default, call(aten.softmax.int, scores, -1), value)
        if isinstance(mask, Node) and zeros:
            allowed = mask if boolean else call(aten.gt.Scalar, mask, float("-inf"))
            mixed = call(aten.where.ScalarOther, call(aten.any.dim, allowed, -1, True), mixed, 0.0)
        node.replace_all_uses_with(mixed)
    node.graph.erase_node(node)

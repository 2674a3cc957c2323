"""A graph that takes shorter sequences than those it was captured with, on the very same tensors."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from leanly.graph.graph import Graph

aten = torch.ops.aten


def any_length(graph: Graph, inputs: Sequence[int]) -> Graph:
    """Return a graph whose inputs may be shorter along dimension 1; it shares the tensors of the one given.

    Wherever the graph holds that length as a literal, it is read off the first of these inputs instead. A literal may
    equal it by chance: only a comparison of outputs shows that the graph computes the same.

    Args:
        graph: is not changed.
        inputs: positions of inputs of one length.
    """
    inside = copy.deepcopy(graph.module.graph)
    placeholders = [node for node in inside.nodes if node.op == "placeholder"]
    length = graph.inputs[inputs[0]].shape[1]
    if isinstance(length, int):
        with inside.inserting_after(placeholders[-1]):
            size = inside.call_function(aten.sym_size.int, (placeholders[inputs[0]], 1))

        def read_off(value: Any) -> Any:
            return size if type(value) is int and value == length else value

        for node in inside.nodes:
            if node.op == "call_function" and node is not size:
                node.args = map_aggregate(node.args, read_off)  # type: ignore[assignment]
                node.kwargs = map_aggregate(node.kwargs, read_off)  # type: ignore[assignment]
    return Graph(
        fx.GraphModule(graph.module, inside),
        inputs=graph.inputs,
        outputs=graph.outputs,
        arguments=graph.arguments,
        returns=graph.returns,
        example=graph.example,
        training=graph.training,
        kept=graph.kept,
    )

"""Shortening: a graph without some of its blocks."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.fx import GraphModule

from leanly.graph.blocks import Block
from leanly.graph.cleaning import remove_dead
from leanly.graph.graph import Graph
from leanly.graph.tensors import drop, every, names_by_tensor


def without_blocks(graph: Graph, blocks: Iterable[Block]) -> Graph:
    """Return a graph without some of its blocks; the graph given is not changed."""
    graph = graph.clone()
    module = graph.module
    nodes = {node.name: node for node in module.graph.nodes}
    before = _read(module)
    # from the last on: a block's exit may be what the next one reads
    for block in sorted(blocks, key=lambda block: list(nodes).index(block.exit), reverse=True):
        nodes[block.exit].replace_all_uses_with(nodes[block.entry])
        for name in reversed(block.nodes):
            module.graph.erase_node(nodes[name])
    remove_dead(module.graph)
    module.graph.lint()
    module.recompile()
    _drop(graph, before)
    return graph


def _drop(graph: Graph, before: set[str]) -> None:
    """Remove the tensors that were read before and are not now, with what else their layers held (a counter)."""
    module = graph.module
    gone = before - _read(module)
    left = {_owner(name) for name in before - gone}
    emptied = {_owner(name) for name in gone} - left
    for name, tensor in every(module).items():
        if name in gone or (name not in before and _owner(name) in emptied):
            if isinstance(tensor, nn.Parameter):
                graph.kept[name] = None
            drop(module, name)


def _read(module: GraphModule) -> set[str]:
    """Name the tensors that nodes read, each by all of its names: a module may be used at several places."""
    tensors = every(module)
    names = names_by_tensor(tensors)
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    return {alias for name in read for alias in names[id(tensors[name])]}


def _owner(name: str) -> str:
    return name.rpartition(".")[0]

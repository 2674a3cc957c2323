"""Reach: which values of a graph are computed from which, sizes left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.fx import Node

from leanly.graph.graph import Graph
from leanly.graph.tensors import find


class Reach:
    """Ancestors of every node, as bits.

    Args:
        graph: nodes in order.
        results: shape and dtype of every node, from `propagate`; a node without a tensor is a size, through which
            nothing is said to be computed.
    """

    def __init__(self, graph: Graph, results: dict[str, Any]) -> None:
        self.order: list[Node] = list(graph.module.graph.nodes)
        self.position = {node.name: place for place, node in enumerate(self.order)}
        self.results = results
        self._module = graph.module
        self._ancestors: list[int] = []
        self._constant: set[Node] = set()
        for node in self.order:
            bits = 0
            for source in node.all_input_nodes:
                if not isinstance(results.get(source.name), int | float):
                    place = self.position[source.name]
                    bits |= self._ancestors[place] | 1 << place
            self._ancestors.append(bits)
            sources = node.all_input_nodes
            if node.op == "get_attr" or (sources and all(source in self._constant for source in sources)):
                self._constant.add(node)

    def leads(self, first: Node, last: Node) -> bool:
        """Say whether the one is an ancestor of the other."""
        return bool(self._ancestors[self.position[last.name]] >> self.position[first.name] & 1)

    def between(self, first: Node, last: Node) -> list[Node]:
        """Return the nodes on all ways from one node, left out, to another, in order."""
        start, end = self.position[first.name], self.position[last.name]
        ways = [node for node in self.order[start + 1 : end] if self.leads(first, node) and self.leads(node, last)]
        return [*ways, last]

    def is_constant(self, node: Node) -> bool:
        """Say whether a node follows from parameters and buffers alone."""
        return node in self._constant

    def weighted(self, nodes: Iterable[Node]) -> bool:
        """Say whether one of the nodes reads a parameter of two or more dimensions, as it is or made over."""
        seen: set[Node] = set()
        waiting = [source for node in nodes for source in node.all_input_nodes if source in self._constant]
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.op == "get_attr":
                tensor = find(self._module, str(node.target))
                if isinstance(tensor, nn.Parameter) and tensor.ndim > 1:
                    return True
            waiting += node.all_input_nodes
        return False

    def needed_only_for(self, nodes: list[Node], entry: Node) -> list[Node]:
        """Return the nodes and all others that only they need, in order; none if others read one but the last.

        Args:
            nodes: a part that starts behind `entry`; the last one is what it gives.
            entry: what goes in, which stays.
        """
        part, last = set(nodes), nodes[-1]
        needed: set[Node] = set()
        for node in reversed(self.order[: self.position[last.name] + 1]):
            alone = bool(node.users) and all(user in needed for user in node.users)
            if node is last or (alone and node is not entry and node.op != "placeholder"):
                needed.add(node)
            elif node in part:
                return []
        return [node for node in self.order if node in needed]

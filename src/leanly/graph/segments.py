"""Segments: a graph as parts that run one after the other, with one tensor between each and the next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from leanly.graph.graph import Graph
from leanly.graph.shapes import is_spec, propagate
from leanly.graph.tensors import find


@dataclass(frozen=True)
class Segment:
    """A part with one way in and one way out.

    Args:
        entry: name of the node whose value goes in; "" where the inputs of the graph do.
        exit: name of the node whose value comes out: a tensor with the batch in front.
        nodes: names of all nodes that are run for it, in order, those that read tensors included. What follows from the
            inputs alone, as a mask, is among them.
    """

    entry: str
    exit: str
    nodes: tuple[str, ...]

    def until(self, name: str) -> Segment:
        """Return the part of it that ends with one of its nodes."""
        return Segment(self.entry, name, self.nodes[: self.nodes.index(name) + 1])


def find_segments(graph: Graph, starts: Callable[[Node], bool], counts: Callable[[Node], bool]) -> tuple[Segment, ...]:
    """Cut a graph into the smallest segments that each hold something that counts.

    A cut lies where everything computed before and read after is one tensor with the batch in front. What lies behind
    the last cut is in no segment.

    Args:
        graph: any graph.
        starts: whether a node that follows a finished segment begins the next one.
        counts: whether a node is what a segment must hold.
    """
    order = list(graph.module.graph.nodes)
    place = {node: number for number, node in enumerate(order)}
    main = _main_nodes(graph)
    cuts = _cuts(main, place, batched(graph))
    segments: list[Segment] = []
    entry, before, inside = "", "", False
    rest = iter(main)
    for cut in cuts:
        stretch: list[Node] = []
        for node in rest:
            stretch.append(node)
            if node is cut:
                break
        if inside and any(starts(node) or counts(node) for node in stretch):
            segments.append(_segment(order, entry, before))
            entry, inside = before, False
        inside = inside or any(counts(node) for node in stretch)
        before = cut.name
    if inside:
        segments.append(_segment(order, entry, before))
    return tuple(segments)


def _main_nodes(graph: Graph) -> list[Node]:
    """Return the nodes that are computed with parameters, in order: the others follow from the inputs alone."""
    computed: set[Node] = set()
    for node in graph.module.graph.nodes:
        sources = node.all_input_nodes
        reads = any(source.op == "get_attr" and _is_weight(graph.module, source) for source in sources)
        if node.op == "call_function" and (reads or any(source in computed for source in sources)):
            computed.add(node)
    return [node for node in graph.module.graph.nodes if node in computed and not _follows_from_tensors(node)]


def _follows_from_tensors(node: Node) -> bool:
    """Say whether a node reads parameters and buffers only, as the quantizer of a weight does."""
    waiting, seen = list(node.all_input_nodes), set[Node]()
    while waiting:
        source = waiting.pop()
        if source.op == "placeholder":
            return False
        if source not in seen:
            seen.add(source)
            waiting += source.all_input_nodes
    return True


def _is_weight(module: GraphModule, node: Node) -> bool:
    return isinstance(find(module, str(node.target)), torch.nn.Parameter)


def batched(graph: Graph) -> set[str]:
    """Name the nodes that are one tensor with the batch in front."""
    two, three = propagate(graph, 2), propagate(graph, 3)
    return {
        name
        for name, item in two.items()
        if is_spec(item) and is_spec(three.get(name)) and item[0] and (item[0][0], three[name][0][0]) == (2, 3)
    }


def _cuts(main: Sequence[Node], place: Mapping[Node, int], batched: set[str]) -> list[Node]:
    """Return the nodes over which no value of an earlier one is carried on."""
    cuts, reach = [], -1
    for node in main:
        if reach <= place[node] and node.name in batched:
            cuts.append(node)
        reach = max(reach, *(place[user] for user in node.users))
    return cuts


def _segment(order: Sequence[Node], entry: str, exit: str) -> Segment:
    return Segment(entry, exit, tuple(needed_for(order, [exit], {entry})))


def needed_for(order: Sequence[Node], names: Collection[str], given: Container[str]) -> list[str]:
    """Return the nodes that have to run for the values of some, in order.

    Args:
        order: the nodes of a graph.
        names: of the nodes whose values are wanted.
        given: names of nodes whose values are there, besides the inputs.
    """
    needed, waiting = set[Node](), [node for node in order if node.name in names]
    while waiting:
        node = waiting.pop()
        if node not in needed and node.name not in given and node.op != "placeholder":
            needed.add(node)
            waiting += node.all_input_nodes
    return [node.name for node in order if node in needed]


class Runner(Interpreter):
    """Runs parts of a graph on values that are given.

    Args:
        module: of a graph.
        replace: called for each node that is run, before it is; a tensor it returns is taken as the node's value.
    """

    def __init__(self, module: GraphModule, replace: Callable[[Node, Runner], Any] | None = None) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._replace = replace
        self._inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._by_name = {node.name: node for node in module.graph.nodes}

    def part(self, nodes: Iterable[str], inputs: Sequence[Tensor], given: Mapping[str, Any], exit: str) -> Tensor:
        """Run nodes in order and return the value of one of them.

        Args:
            nodes: names.
            inputs: flat inputs of the graph.
            given: values of nodes that are not run.
            exit: name of the node whose value is returned.
        """
        self.env = dict(zip(self._inputs, inputs, strict=True))
        self.env |= {self._by_name[name]: value for name, value in given.items() if name}
        for name in nodes:
            node = self._by_name[name]
            self.env[node] = self.run_node(node)
        return self.env[self._by_name[exit]]

    def value(self, node: Node) -> Any:
        """Return the value of a node that was run or given."""
        return self.env[node]

    def named(self, name: str) -> Any:
        """Return the value of the node of that name."""
        return self.env[self._by_name[name]]

    def run_node(self, n: Node) -> Any:
        """Run a node, or take the value that is given in its place."""
        if self._replace is not None and (value := self._replace(n, self)) is not None:
            return value
        return self.run_plain(n)

    def run_plain(self, n: Node) -> Any:
        """Run a node as it is."""
        return super().run_node(n)

"""Work: the MACs of a graph, or its time, by how long its dimensions are: a cut is counted before it is made."""

from __future__ import annotations

import functools
import math

import numpy as np
from torch import fx

from leanly.costs import CostTable
from leanly.graph.cost import macs
from leanly.graph.coupling import Coupling
from leanly.graph.coupling.walking import ROWS

Lengths = np.ndarray
"""For each dimension of `Coupling.dims`, how many indices stay."""


class Work:
    """MACs of every node, for the batch size the graph was coupled at; or seconds, where they were measured.

    Args:
        coupling: of the graph that is counted, as `Graph.cost` counts.
        costs: seconds of each layer by its widths.
    """

    def __init__(self, coupling: Coupling, costs: CostTable | None = None) -> None:
        self._coupling, self._costs = coupling, costs
        # the same few widths are asked for again and again
        self._seconds = functools.cache(costs.seconds) if costs is not None else lambda *_: 0.0
        self._nodes: list[fx.Node] = []
        self._readers: dict[int, list[int]] = {}
        self.counts: list[float] = []
        lengths = coupling.dim_sizes
        for node in coupling.wiring.graph.module.graph.nodes:
            if node.op == "call_function" and node.name in coupling.places:
                count = self._count(node, lengths)
                if count:
                    for place in self._places(node):
                        self._readers.setdefault(place, []).append(len(self._nodes))
                    self._nodes.append(node)
                    self.counts.append(count)

    @property
    def in_steps(self) -> bool:
        """Whether what layers take need not fall with each unit that leaves."""
        return self._costs is not None

    @property
    def total(self) -> float:
        """What is left."""
        return sum(self.counts)

    def saved(self, lengths: Lengths, shorter: np.ndarray) -> float:
        """Return how much goes when the dimensions `shorter` have become as long as `lengths` says."""
        return sum(self.counts[number] - self._count(self._nodes[number], lengths) for number in self._touched(shorter))

    def shorten(self, lengths: Lengths, shorter: np.ndarray) -> None:
        """Make that cut."""
        for number in self._touched(shorter):
            self.counts[number] = self._count(self._nodes[number], lengths)

    def _touched(self, dims: np.ndarray) -> set[int]:
        return {number for dim in dims.tolist() for number in self._readers.get(dim, ())}

    def _places(self, node: fx.Node) -> set[int]:
        names = [node.name, *(source.name for source in node.all_input_nodes)]
        values = (dims for name in names for dims in self._coupling.places.get(name, ()))
        return {place for dims in values for place in dims if place >= 0}

    def _count(self, node: fx.Node, lengths: Lengths) -> float:
        def shape(source: fx.Node) -> tuple[int, ...]:
            whole = self._coupling.wiring.shapes(source)[0]
            places = self._coupling.places[source.name][0]
            return tuple(int(lengths[place]) if place >= 0 else size for place, size in zip(places, whole, strict=True))

        output = shape(node)
        count = macs(node, shape, output)
        if self._costs is None or not count:
            return count
        elements = math.prod(output)
        return self._seconds(node.name, elements / ROWS, count / elements)

"""Work: the MACs of a graph by how long its dimensions are, so that a cut is counted before it is made."""

from __future__ import annotations

import numpy as np
from torch import fx

from leanly.graph.cost import macs
from leanly.graph.coupling import Coupling

Lengths = np.ndarray
"""For each dimension of `Coupling.dims`, how many indices stay."""


class Work:
    """MACs of every node, for the batch size the graph was coupled at.

    Args:
        coupling: of the graph that is counted, as `Graph.cost` counts.
    """

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        self._nodes: list[fx.Node] = []
        self._readers: dict[int, list[int]] = {}
        self.macs: list[int] = []
        lengths = coupling.dim_sizes
        for node in coupling.wiring.graph.module.graph.nodes:
            if node.op == "call_function" and node.name in coupling.places:
                count = self._count(node, lengths)
                if count:
                    for place in self._places(node):
                        self._readers.setdefault(place, []).append(len(self._nodes))
                    self._nodes.append(node)
                    self.macs.append(count)

    @property
    def total(self) -> int:
        """MACs that are left."""
        return sum(self.macs)

    def saved(self, lengths: Lengths, shorter: np.ndarray) -> int:
        """Return how many MACs go when the dimensions `shorter` have become as long as `lengths` says."""
        return sum(self.macs[number] - self._count(self._nodes[number], lengths) for number in self._touched(shorter))

    def shorten(self, lengths: Lengths, shorter: np.ndarray) -> None:
        """Make that cut."""
        for number in self._touched(shorter):
            self.macs[number] = self._count(self._nodes[number], lengths)

    def _touched(self, dims: np.ndarray) -> set[int]:
        return {number for dim in dims.tolist() for number in self._readers.get(dim, ())}

    def _places(self, node: fx.Node) -> set[int]:
        names = [node.name, *(source.name for source in node.all_input_nodes)]
        values = (dims for name in names for dims in self._coupling.places.get(name, ()))
        return {place for dims in values for place in dims if place >= 0}

    def _count(self, node: fx.Node, lengths: Lengths) -> int:
        def shape(source: fx.Node) -> tuple[int, ...]:
            whole = self._coupling.wiring.shapes(source)[0]
            places = self._coupling.places[source.name][0]
            return tuple(int(lengths[place]) if place >= 0 else size for place, size in zip(places, whole, strict=True))

        return macs(node, shape, shape(node))

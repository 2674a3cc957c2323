"""Sizes after a cut: a dimension is as long as it keeps variables, so that no shape has to be inferred."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.node import map_aggregate

from leanly.graph.coupling.coupling import Coupling
from leanly.graph.coupling.variables import Array

aten = torch.ops.aten


class Unfit(Exception):
    """A cut that can't be carried out at some nodes; they have to be kept whole."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = frozenset(nodes)
        super().__init__(", ".join(sorted(nodes)))


class Sizes:
    """What stays of every dimension of every value.

    Args:
        coupling: of the graph before the cut.
        gone: for each class whether it leaves.
    """

    def __init__(self, coupling: Coupling, gone: Array) -> None:
        self.wiring = coupling.wiring
        self._stays = ~gone[coupling.solution.classes]
        self._numbers: dict[str, Any] = {}
        self.scaled = False
        """Whether a computed size had to be multiplied."""

    def stays(self, name: str, dim: int, output: int = 0) -> Array:
        """Say for each index of a dimension whether it stays."""
        return self._stays[self.wiring.values[name][output][dim]]

    def is_whole(self, name: str, dim: int, output: int = 0) -> bool:
        """Say whether a dimension loses nothing."""
        return bool(self.stays(name, dim, output).all())

    def length(self, name: str, dim: int, output: int = 0) -> int:
        """Count what stays of a dimension."""
        return int(self.stays(name, dim, output).sum())

    def shape(self, name: str, output: int = 0) -> tuple[int, ...]:
        """Return the shape of a value after the cut, for the batch size the graph was looked at."""
        return tuple(int(self._stays[dim].sum()) for dim in self.wiring.values[name][output])

    def groups(self, name: str) -> int:
        """Count the groups of a convolution or norm that stay."""
        return int(self._stays[self.wiring.groups[name]].sum())

    def number(self, node: fx.Node) -> Any:
        """Return what a node that gives a number, not a tensor, will give after the cut."""
        if node.name not in self._numbers:
            self._numbers[node.name] = self._computed(node)
        return self._numbers[node.name]

    def _computed(self, node: fx.Node) -> Any:
        before = self.wiring.results[node.name]
        if node.target is aten.sym_size.int:
            source, dim = node.args
            return self.shape(source.name)[dim]  # type: ignore[union-attr, index]
        if node.op != "call_function" or any(item.name in self.wiring.values for item in node.all_input_nodes):
            return before
        args, kwargs = map_aggregate(
            (node.args, node.kwargs), lambda item: self.number(item) if isinstance(item, fx.Node) else item
        )  # type: ignore[misc]
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def check_numbers(self, node: fx.Node, fitted: frozenset[str] = frozenset()) -> None:
        """Refuse a number among the arguments that a cut would change, unless it is one of the sizes that were fitted.

        Raises:
            Unfit: names the reads of a size that have to stay what they are.
        """
        for source in node.all_input_nodes:
            if (
                source.name in self.wiring.results
                and source.name not in self.wiring.values
                and source.name not in fitted
            ):
                self._check_number(source)

    def _check_number(self, node: fx.Node) -> None:
        if self.number(node) != self.wiring.results[node.name]:
            raise Unfit(*(read.name for read in _size_reads(node)))

    def fitted(self, size: Any, length: int, node: fx.Node) -> Any:
        """Return a size for a dimension that is to be `length` long: -1 and what fits already as they are.

        Args:
            size: a literal, or a node that computes it; `node` reads it.
        """
        if not isinstance(size, fx.Node):
            return size if size == -1 else length
        found = self.number(size)
        if found == length:
            return size
        self.scaled = True
        ratio = math.gcd(length, found)
        with node.graph.inserting_before(node):
            times = node.graph.call_function(operator.mul, (size, length // ratio)) if length != ratio else size
            return node.graph.call_function(operator.floordiv, (times, found // ratio)) if found != ratio else times


def _size_reads(node: fx.Node) -> list[fx.Node]:
    if node.target is aten.sym_size.int:
        return [node]
    return [read for source in node.all_input_nodes for read in _size_reads(source)]


def positions(stays: Array) -> Array:
    """Return for each index that stays where it stands afterwards."""
    return np.cumsum(stays) - 1

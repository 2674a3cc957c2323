"""Sweep: values inside a graph for all rows, computed on from where the sweep was, while weights change on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from leanly.graph.graph import Graph
from leanly.graph.segments import Runner, needed_for

LARGEST = 2**29
"""Bytes of values that are kept; where more are alive, the sweep goes on from further back."""


class Sweep:
    """Goes through a graph once, in the order of its nodes, with all rows.

    Weights of nodes ahead may be changed between two calls: what is computed with them is not kept.

    Args:
        graph: in the mode in which it is to run.
        batches: flat inputs of some rows each.
    """

    def __init__(self, graph: Graph, batches: Sequence[Sequence[Tensor]]) -> None:
        self._batches, self._device = batches, graph.device
        self._runner = Runner(graph.module)
        self._order = list(graph.module.graph.nodes)
        self._place = {node.name: place for place, node in enumerate(self._order)}
        self._kept: list[dict[str, Any]] = [{} for _ in batches]

    def values(self, names: Sequence[str], before: str) -> Iterator[tuple[Tensor, ...]]:
        """Yield for each batch the values of some nodes; later calls start in front of the node `before`.

        Args:
            names: of nodes that are one tensor each; some may lie behind `before`.
            before: a node no later than that of the next call; its own weights, and those of all behind it, may change.
        """
        place = self._place[before]
        alive = [node.name for node in self._order[:place] if self._is_alive(node, place)]
        needed = needed_for(self._order, {*names, *alive}, self._kept[0] if self._kept else ())
        kept: list[dict[str, Any]] = []
        size = 0
        for batch, held in zip(self._batches, self._kept, strict=True):
            with torch.no_grad():
                self._runner.part(needed, [tensor.to(self._device) for tensor in batch], held, names[0])
            if size <= LARGEST:
                kept.append({name: self._runner.named(name) for name in alive})
                size += sum(one.nbytes for one in tree_leaves(kept[-1]) if isinstance(one, Tensor))
            yield tuple(self._runner.named(name) for name in names)
        if size <= LARGEST:
            self._kept = kept

    def _is_alive(self, node: Node, place: int) -> bool:
        """Say whether a computed value is read at a place or behind it."""
        computed = node.op not in ("placeholder", "get_attr")
        return computed and any(self._place[user.name] >= place for user in node.users)

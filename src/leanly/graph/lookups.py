"""Lookups: the tables in which the numbers of an input are looked up, as token ids are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.fx import Node

from leanly.graph.blocks import COPIES
from leanly.graph.graph import Graph
from leanly.graph.nodes import argument, first_argument, reads_tensor
from leanly.graph.tensors import find

aten = torch.ops.aten
SAME_NUMBERS = COPIES | {
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unsqueeze.default, aten.transpose.int,
}  # fmt: skip
"""Operators that pass all numbers on as they are."""


class Table(NamedTuple):
    """A tensor whose rows are numbered from 0."""

    name: str
    rows: int


def tables(graph: Graph) -> dict[str, Table]:
    """Return for each input that is looked up the smallest table that it is looked up in, by the input's name."""
    inputs = [node for node in graph.module.graph.nodes if node.op == "placeholder"]
    found = {}
    for spec, node in zip(graph.inputs, inputs, strict=True):
        looked_up = [_table(graph, lookup) for lookup in _lookups(node)]
        if looked_up:
            found[spec.name] = min(looked_up, key=lambda table: table.rows)
    return found


def _lookups(numbers: Node) -> Iterator[Node]:
    for user in numbers.users:
        if user.target is aten.embedding.default and argument(user, "indices") is numbers:
            yield user
        elif user.target in SAME_NUMBERS:
            yield from _lookups(user)


def _table(graph: Graph, lookup: Node) -> Table:
    weight = argument(lookup, "weight")
    while not reads_tensor(weight):
        weight = first_argument(weight)  # a quantizer's
    return Table(str(weight.target), len(find(graph.module, str(weight.target))))

"""Blocks: the parts of a graph that can be left out whole: residual blocks, and the layers of transformers.

A unit is found at every sum of a value and of something computed from it with weights: between the two lies a part
with one way in and one way out of the same shape. A norm or activation right behind all alike units belongs to them
(ResNet's last ReLU, BERT's norm). Units in a row that repeat as attention and feed-forward are one layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from leanly.graph.graph import Graph
from leanly.graph.nodes import first_argument
from leanly.graph.reach import Reach
from leanly.graph.shapes import propagate

aten = torch.ops.aten
SUMS = frozenset({aten.add.Tensor})
COPIES = frozenset({
    aten.clone.default, aten.contiguous.default, aten.alias.default, aten.to.dtype, aten.to.dtype_layout,
    aten.to.device, aten._to_copy.default,
})  # fmt: skip
"""Operators that give back what they were given, where they do not change its dtype."""
DROPOUT = aten.dropout.default
NORMS = frozenset({
    aten.batch_norm.default, aten.layer_norm.default, aten.group_norm.default, aten.instance_norm.default,
    aten.rms_norm.default,
})  # fmt: skip
SOFTMAX = frozenset({aten.scaled_dot_product_attention.default, aten.softmax.int, aten._softmax.default})


@dataclass(frozen=True)
class Block:
    """A part that can be left out: whoever reads `exit` can read `entry` instead.

    Args:
        entry: name of the node that goes in.
        exit: name of the node that comes out, of the same shape.
        nodes: names of all nodes that are needed for nothing else, in order, those that read tensors included.
        tensors: names of the parameters and buffers that only these nodes read.
        source: the user's line of its first operator.
    """

    entry: str
    exit: str
    nodes: tuple[str, ...]
    tensors: tuple[str, ...]
    source: str


def find_blocks(graph: Graph) -> tuple[Block, ...]:
    """Return the blocks of a graph in the order they run; none holds another."""
    reach = Reach(graph, propagate(graph, 2))
    units = _smallest([unit for node in reach.order if node.target in SUMS and (unit := _unit(reach, node))])
    _give_tails(reach, units)
    same = propagate(graph, 3)
    blocks = []
    for run in _runs(units):
        for layer in _layers(run):
            first, last = layer[0].entry, layer[-1].exit
            inside = reach.needed_only_for([node for unit in layer for node in unit.nodes], first)
            if inside and _is_same(reach, first, last) and same[first.name] == same[last.name]:
                blocks.append(_block(graph, first, last, inside))
    return tuple(sorted(blocks, key=lambda block: reach.position[block.exit]))


@dataclass
class _Unit:
    """A residual part: from the value that goes in (`entry`) over a sum to what comes out, its tail included."""

    entry: Node
    nodes: list[Node]
    attends: bool
    normed_first: bool
    tail: list[Node]

    @property
    def exit(self) -> Node:
        return self.nodes[-1]

    @property
    def signature(self) -> tuple[Any, ...]:
        """What operators it is made of, whatever their sizes."""
        return tuple(node.target for node in self.nodes)


def _unit(reach: Reach, total: Node) -> _Unit | None:
    """Return the unit that a sum closes: one operand is an ancestor of the other, with weights in between."""
    operands = total.args[:2]
    if not all(isinstance(operand, Node) for operand in operands):
        return None
    for shortcut, branch in (operands, operands[::-1]):
        assert isinstance(shortcut, Node) and isinstance(branch, Node)
        entry: Node | None = shortcut
        while entry is not None and not reach.leads(entry, branch):
            entry = first_argument(entry) if entry.target in COPIES | {DROPOUT} else None
        if entry is None or not _is_same(reach, entry, total):
            continue
        while entry.target in COPIES and _is_same(reach, entry, first_argument(entry)):
            entry = first_argument(entry)
            assert isinstance(entry, Node)
        nodes = reach.between(entry, total)
        if reach.weighted(nodes) and reach.needed_only_for(nodes, entry):
            return _Unit(
                entry=entry,
                nodes=nodes,
                attends=any(node.target in SOFTMAX for node in nodes),
                normed_first=any(node.target in NORMS and node.args[0] is entry for node in nodes),
                tail=_tail(reach, total),
            )
    return None


def _is_same(reach: Reach, one: Node, other: Node) -> bool:
    """Say whether two nodes have one shape and dtype."""
    return reach.results[one.name] == reach.results[other.name]


def _tail(reach: Reach, total: Node) -> list[Node]:
    """Return the norms and activations that follow a sum and are the only ones to read it."""
    tail: list[Node] = []
    node = total
    while len(node.users) == 1:
        (reader,) = node.users
        others = [source for source in reader.all_input_nodes if source is not node]
        if reader.op != "call_function" or not all(reach.is_constant(source) for source in others):
            break
        if reader.target not in NORMS | {DROPOUT} and not (_is_pointwise(reader) and not others):
            break
        tail.append(reader)
        node = reader
    return tail


def _is_pointwise(node: Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ())


def _smallest(units: list[_Unit]) -> list[_Unit]:
    """Leave out units that hold another one."""
    inside = [set(unit.nodes) for unit in units]
    return [unit for unit, mine in zip(units, inside, strict=True) if not any(other < mine for other in inside)]


def _give_tails(reach: Reach, units: list[_Unit]) -> None:
    """Add to each unit the part of its tail that all units of its kind have."""
    kinds: dict[tuple[Any, ...], list[_Unit]] = defaultdict(list)
    for unit in units:
        kinds[unit.signature].append(unit)
    for alike in kinds.values():
        length = _common([[node.target for node in unit.tail] for unit in alike])
        if alike[0].normed_first:
            length = 0  # what follows is the next norm, or the last one of the network
        elif len(alike) == 1:
            length = _lone(alike[0])
        for unit in alike:
            unit.nodes = [*unit.nodes, *unit.tail[:length]]


def _common(tails: Sequence[Sequence[Any]]) -> int:
    """Return how many first entries are the same in all."""
    length = 0
    for entries in zip(*tails, strict=False):
        if len(set(entries)) > 1:
            break
        length += 1
    return length


def _lone(unit: _Unit) -> int:
    """Return how much of its tail a unit without another of its kind has: up to a norm, or what also made its entry."""
    for place, node in enumerate(unit.tail):
        if node.target in NORMS or node.target is unit.entry.target:
            return place + 1
    return 0


def _runs(units: Iterable[_Unit]) -> list[list[_Unit]]:
    """Return units in rows where the one's exit is the next one's entry."""
    runs: list[list[_Unit]] = []
    ends: dict[Node, list[_Unit]] = {}
    for unit in units:
        run = ends.pop(unit.entry, None)
        if run is None:
            run = []
            runs.append(run)
        run.append(unit)
        ends[unit.exit] = run
    return runs


def _layers(run: list[_Unit]) -> list[list[_Unit]]:
    """Cut a row of units into layers: what repeats, or an attention with its feed-forward, else each unit alone."""
    attends = [unit.attends for unit in run]
    if not any(attends):
        return _cut(run, _period([unit.signature for unit in run]) or 1)
    period = _period([unit.signature for unit in run]) or _period(attends)
    if period:
        return _cut(run, _period(attends[:period]) or period)
    first = attends.index(True)
    return [*_layers(run[:first]), *_layers(run[first:])] if first else [run]


def _cut(run: list[_Unit], length: int) -> list[list[_Unit]]:
    return [run[start : start + length] for start in range(0, len(run), length)]


def _period(values: Sequence[Any]) -> int:
    """Return the least distance after which all values repeat, at least twice; 0 where there is none."""
    for period in range(1, len(values) // 2 + 1):
        if all(values[place] == values[place + period] for place in range(len(values) - period)):
            return period
    return 0


def _block(graph: Graph, entry: Node, exit: Node, inside: list[Node]) -> Block:
    operators = [node for node in inside if node.op == "call_function"]
    return Block(
        entry=entry.name,
        exit=exit.name,
        nodes=tuple(node.name for node in inside),
        tensors=tuple(str(node.target) for node in inside if node.op == "get_attr"),
        source=graph.source(operators[0]),
    )

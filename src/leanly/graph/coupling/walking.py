"""From a graph to its wiring: every node's rule is applied once, in order."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import torch
from torch import fx

from leanly.graph.coupling.making import make
from leanly.graph.coupling.movement import Slot
from leanly.graph.coupling.moving import move
from leanly.graph.coupling.rules import RULES
from leanly.graph.coupling.rules.elementwise import pointwise
from leanly.graph.coupling.shrinking import Question, operator_name
from leanly.graph.coupling.vanishing import vanishes
from leanly.graph.coupling.variables import FROZEN, Dims
from leanly.graph.coupling.wiring import Wiring

if TYPE_CHECKING:
    from leanly.graph.graph import Graph

ROWS = 2
"""The batch size at which a graph is looked at: with one row, rows mixed into another dimension would not show."""
_SHAPED_AS = {"reshape_as": "reshape", "view_as": "reshape", "expand_as": "expand"}


def wire(graph: Graph, whole: frozenset[str] = frozenset()) -> Wiring:
    """Give every value of a graph its variables, and collect the constraints of every node.

    Args:
        graph: it is not changed.
        whole: names of nodes that are treated as if their operators had no rule.
    """
    wiring = Wiring(graph, ROWS)
    for node in graph.module.graph.nodes:
        if node.op == "placeholder":
            wiring.values[node.name] = wiring.solid(node, FROZEN)
        elif node.op == "get_attr":
            wiring.values[node.name] = [wiring.stored(node)]
        elif node.op == "output":
            for source in node.all_input_nodes:
                wiring.freeze(source, FROZEN)
        elif node.name not in whole and (found := make(node, wiring)) is not None:
            wiring.values[node.name] = found
        elif node.target is operator.getitem and node.args[0].name in wiring.values:
            wiring.values[node.name] = [wiring.values[node.args[0].name][node.args[1]]]
        elif wiring.gives_tensors(node):
            found = None if node.name in whole else _apply(node, wiring)
            wiring.values[node.name] = found if found is not None else _hold(node, wiring)
        elif node.target is not torch.ops.aten.sym_size.int:
            _hold(node, wiring)
        if node.name in wiring.values and vanishes(node, wiring):
            wiring.vanishing.add(node.name)
    return wiring


def _apply(node: fx.Node, wiring: Wiring) -> list[Dims] | None:
    """Return what a node gives by its rule; None where there is none, or it was not written for this use of it."""
    try:
        found = _ruled(node, wiring)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    shapes = wiring.shapes(node)
    fits = found is not None and [tuple(map(len, dims)) for dims in found] == [tuple(shape) for shape in shapes]
    return found if fits else None


def _ruled(node: fx.Node, wiring: Wiring) -> list[Dims] | None:
    name = operator_name(node.target)
    rule = RULES.get(name)
    if rule is not None:
        return rule(node, wiring)
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return pointwise(node, wiring)
    if name in _SHAPED_AS:
        return _shaped_as(node, wiring, _SHAPED_AS[name])
    return move(node, wiring)


def _shaped_as(node: fx.Node, wiring: Wiring, name: str) -> list[Dims] | None:
    """Give one tensor the shape of another: dimensions move as by the literal shape, and are the other's."""
    x, other = wiring.sources(node)[:2]
    target = getattr(torch.ops.aten, name).default
    question = Question(target, (Slot(0), list(wiring.shape(other))), (), (wiring.shape(x),))
    found = move(node, wiring, question, [x])
    for one, same in zip(found[0] if found else (), wiring.dims(other), strict=False):
        wiring.variables.same(one, same)
    return found


def _hold(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Keep whole what an operator without a rule reads and gives, under a name of its own."""
    barrier = wiring.barrier(node)
    for source in wiring.sources(node):
        wiring.freeze(source, barrier)
    return wiring.solid(node, barrier)

"""Values made of nothing that is given or stored, as positions counted out in `forward`: they are cut where they end.

What counts out can't be told to leave indices out. It makes all of them, and those that stay are picked.
"""

from __future__ import annotations

import operator

from torch import fx

from leanly.graph.coupling.rules import RULES
from leanly.graph.coupling.shrinking import operator_name
from leanly.graph.coupling.variables import FROZEN, Dims
from leanly.graph.coupling.wiring import Wiring, picks


def make(node: fx.Node, wiring: Wiring) -> list[Dims] | None:
    """Return new dimensions for what a node makes; None where it reads an input or a stored tensor, or has a rule.

    Args:
        node: what it reads was asked about before.
        wiring: its `made` and `sourceless` are added to.
    """
    if node.op != "call_function" or not wiring.gives_tensors(node):
        return None
    sources = node.all_input_nodes if node.target is operator.getitem else wiring.sources(node)
    if not all(source.name in wiring.sourceless or picks(source) for source in sources):
        return None
    wiring.sourceless.add(node.name)
    if not any(source.name in wiring.made for source in sources) and (sources or operator_name(node.target) in RULES):
        return None
    wiring.made.add(node.name)
    for source in sources:
        if source.name not in wiring.made:
            wiring.freeze(source, FROZEN)
    if not wiring.is_tensor(node):
        return wiring.solid(node, FROZEN)
    dims = zip(wiring.shape(node), wiring.elsewhere[node.name][0], strict=True)
    return [[wiring.variables.fresh(size) if size == other else wiring.variables.solid(size) for size, other in dims]]

"""Recurrence: LSTM, GRU and plain networks over whole sequences."""

from __future__ import annotations

import numpy as np
from torch import fx

from leanly.graph.coupling.shrinking import operator_name
from leanly.graph.coupling.variables import Dims
from leanly.graph.coupling.wiring import Wiring
from leanly.graph.nodes import argument, argument_names

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def recurrence(node: fx.Node, wiring: Wiring) -> list[Dims] | None:
    """Couple a state's index with its rows in every gate; layers and directions share one width, so one set of indices.

    Packed sequences and projected states have no rule.
    """
    names = argument_names(node)
    if "input" not in names:
        return None
    variables = wiring.variables
    x = wiring.given(node, "input")
    parameters = [wiring.dims(item) for item in argument(node, "params")]
    states = argument(node, "hx")
    hidden = wiring.dims(states[0] if isinstance(states, list | tuple) else states)[-1]
    gates = _GATES[str(node.target).split(".")[1]]
    directions = 2 if argument(node, "bidirectional") else 1
    each = 4 if argument(node, "has_biases") else 2
    if len(parameters) != each * directions * argument(node, "num_layers"):
        return None
    rows, outputs = np.tile(hidden, gates), np.tile(hidden, directions)
    for place in range(0, len(parameters), each):
        inputs, recurrent, *biases = parameters[place : place + each]
        variables.same(inputs[1], x[-1] if place < each * directions else outputs)
        variables.same(recurrent[1], hidden)
        for rowed in (inputs[0], recurrent[0], *(bias[0] for bias in biases)):
            variables.same(rowed, rows)
    for dim in x[:-1]:
        variables.freeze(dim)
    kept = []
    for state in states if isinstance(states, list | tuple) else [states]:
        dims = wiring.dims(state)
        variables.same(dims[-1], hidden)
        for dim in dims[:-1]:
            variables.freeze(dim)
        kept.append([*(variables.solid(len(dim)) for dim in dims[:-1]), hidden])
    return [[*(variables.solid(len(dim)) for dim in x[:-1]), outputs], *kept]


def cell(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Do the same for one step of a sequence."""
    variables, x = wiring.variables, wiring.given(node, "input")
    states = argument(node, "hx")
    states = states if isinstance(states, list | tuple) else [states]
    hidden = wiring.dims(states[0])[-1]
    inputs, recurrent = wiring.given(node, "w_ih"), wiring.given(node, "w_hh")
    rows = np.tile(hidden, _GATES[operator_name(node.target).removesuffix("_cell")])
    variables.same(inputs[1], x[-1])
    variables.same(recurrent[1], hidden)
    biases = [bias for name in ("b_ih", "b_hh") if (bias := wiring.given(node, name)) is not None]
    for rowed in (inputs[0], recurrent[0], *(bias[0] for bias in biases)):
        variables.same(rowed, rows)
    for state in states[1:]:
        variables.same(wiring.dims(state)[-1], hidden)
    return [[*x[:-1], hidden] for _ in wiring.shapes(node)]


RULES = {**dict.fromkeys(_GATES, recurrence), **dict.fromkeys([f"{name}_cell" for name in _GATES], cell)}

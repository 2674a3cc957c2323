"""Which layers of a quantized network lose most: the error each adds on its own, measured on a few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from leanly.graph import Graph
from leanly.quantize.walking import reads_quantized_weight


def layer_errors(graph: Graph, quantized: Graph, inputs: Sequence[Tensor]) -> dict[str, float]:
    """Return, for each quantized layer, the share of its output's energy that quantizing it alone changes.

    Every layer is given the float values of the layers before it, so that errors don't add up along the way.

    Args:
        graph: the float graph, prepared as the quantized one was (batch norm folded, attention written out).
        quantized: the same graph with quantizers; nodes keep their names.
        inputs: flat input tensors, a few rows.
    """
    recorder = _Recorder(graph.module)
    with torch.no_grad():
        recorder.run(*inputs)
        forced = _Forced(quantized.module, recorder.values)
        forced.run(*inputs)
    return forced.errors


class _Recorder(Interpreter):
    """Keeps the output of each operator."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function":
            self.values[n.name] = value
        return value


class _Forced(Interpreter):
    """Compares the output of each operator with the float one, and goes on with the float one."""

    def __init__(self, module: torch.fx.GraphModule, values: dict[str, Any]) -> None:
        super().__init__(module)
        self.values = values
        self.errors: dict[str, float] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        expected = self.values.get(n.name)
        if not isinstance(expected, Tensor) or not isinstance(value, Tensor) or not expected.is_floating_point():
            return value if expected is None else expected
        if reads_quantized_weight(n):
            energy = float(expected.double().square().sum())
            lost = float((value.double() - expected.double()).square().sum())
            self.errors[n.name] = lost / energy if energy > 0 else 0.0
        return expected

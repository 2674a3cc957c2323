"""Which layers of a quantized network lose most: what each adds on its own, as error or in the metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.quantizer import of_weight
from leanly.quantize.alone import quantizers_of
from leanly.quantize.quantizers import is_quantizer, read_affine
from leanly.quantize.walking import reads_quantized_weight
from leanly.training.evaluation import evaluate_first

if TYPE_CHECKING:
    from leanly.task import Task


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


def metric_drops(quantized: Graph, layers: Sequence[str], task: Task, rows: int) -> Iterator[float]:
    """Yield how much of the metric is lost where one layer alone is quantized, layer by layer.

    Args:
        quantized: the graph with quantizers.
        layers: names of nodes whose weight is quantized.
        task: `validation` with the metric.
        rows: of `validation`, the first.
    """
    whole = evaluate_first(only_quantized(quantized, ""), task, rows)
    for layer in layers:
        yield whole - evaluate_first(only_quantized(quantized, layer), task, rows)


def only_quantized(quantized: Graph, layer: str) -> Graph:
    """Return the graph with the quantizers of one layer's weight and input, and no others."""
    graph = quantized.clone()
    module = graph.module
    kept = [quantizer for node in module.graph.nodes if node.name == layer for quantizer in quantizers_of(node)]
    for node in list(module.graph.nodes):
        if is_quantizer(node) and node not in kept:
            node.replace_all_uses_with(argument(node, "x"))
            module.graph.erase_node(node)
    module.recompile()
    return graph


def layer_bits(quantized: Graph) -> dict[str, str]:
    """Return, for each quantized layer, the bits of its weights and of its input: "W4A8", or "W4" beside floats."""
    found = {}
    for node in quantized.module.graph.nodes:
        if reads_quantized_weight(node):
            affine = {of_weight(one): read_affine(quantized.module, one) for one in quantizers_of(node)}
            bits = {of: (integers.high - integers.low).bit_length() for of, integers in affine.items()}
            found[node.name] = f"W{bits[True]}" + (f"A{bits[False]}" if False in bits else "")
    return found


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

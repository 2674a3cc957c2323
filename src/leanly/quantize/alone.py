"""One layer quantized alone, the rest of the network in float: what that layer's bits change in the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.outputs import floats_of
from leanly.graph.tensors import find
from leanly.quantize.placement import WEIGHTED, root
from leanly.quantize.quantizers import is_quantizer, layers_of, of_layer
from leanly.quantize.static import weight_affine


@dataclass(frozen=True)
class Sensitivity:
    """What a layer's bits change in the outputs.

    Args:
        weights: how many it has.
        shared: whether another layer reads them too.
        errors: squared change of all outputs, summed, by the bits of its weights.
    """

    weights: int
    shared: bool
    errors: Mapping[int, float]


def sensitivities(
    quantized: Graph, batches: Sequence[Sequence[Tensor]], choices: Sequence[int], granularity: str
) -> dict[str, Sensitivity]:
    """Round the weights of one layer after the other to each number of bits, and its input as the graph does.

    Args:
        quantized: the graph with quantizers.
        batches: flat input tensors of a few rows each, which may differ in length.
        choices: bits of weights, 2 to 8.
        granularity: of the weights' scales, as `Static` takes it.

    Returns:
        By the name of the layer; of those that share a weight, of the first that multiplies with it.
    """
    module, found = quantized.module, {}
    given = [[tensor.to(quantized.device) for tensor in batch] for batch in batches]
    with torch.no_grad():
        wanted = [floats_of(_Alone(module).run(*inputs)) for inputs in given]
        for quantizer in filter(of_layer, list(module.graph.nodes)):
            values = find(module, str(argument(quantizer, "x").target)).detach()
            errors = {}
            for bits in choices:
                affine = weight_affine(values, bits, granularity)
                alone = _Alone(module, quantizer, affine.dequantize(affine.quantize(values)))
                errors[bits] = sum(
                    float((floats_of(alone.run(*inputs)) - outputs).square().sum())
                    for inputs, outputs in zip(given, wanted, strict=True)
                )
            layers = layers_of(quantizer)
            name = next((layer.name for layer in layers if layer.target in WEIGHTED), layers[0].name)
            found[name] = Sensitivity(values.numel(), len(quantizer.users) > 1, errors)
    return found


def quantizers_of(layer: Node) -> list[Node]:
    """Return the quantizers of what a layer reads: of its weight, and of its input where that is rounded."""
    return [source for source in map(root, layer.all_input_nodes) if is_quantizer(source)]


class _Alone(Interpreter):
    """Runs a quantized graph in float, but for the layers that read one weight.

    Args:
        module: with quantizers.
        quantizer: of that weight; None leaves every layer in float.
        weight: what the layers are given.
    """

    def __init__(self, module: GraphModule, quantizer: Node | None = None, weight: Tensor | None = None) -> None:
        super().__init__(module)
        self._quantizer, self._weight = quantizer, weight
        self._kept = {source for reader in quantizer.users for source in quantizers_of(reader)} if quantizer else set()

    def run_node(self, n: Node) -> Any:
        if n is self._quantizer:
            return self._weight
        if is_quantizer(n) and n not in self._kept:
            return self.env[argument(n, "x")]
        return super().run_node(n)

"""Mixed: bits chosen for each layer, so that weights take few on average and the outputs move least."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.graph.nodes import argument, reads_tensor
from leanly.graph.outputs import floats_of
from leanly.graph.tensors import find
from leanly.quantize.calibration import calibration_batches
from leanly.quantize.quantizers import check_quantizable
from leanly.quantize.static import Static, prepare, weight_affine
from leanly.scalars import check_whole, is_number, is_whole
from leanly.target import Target
from leanly.task import Task


@dataclass(frozen=True)
class Mixed:
    """Give each layer's weights as many bits as serve the outputs best, with so many on average over all weights.

    Each layer is rounded alone to each number of bits, and the squared change of the outputs seen; then the bit that
    takes off most of it for the bytes it takes is spent, one after the other. The error of layers rounded together is
    close to the sum of theirs, as in Dong et al. 2020, "HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural
    Networks".

    Args:
        average: bits of a weight, on average.
        choices: bits that a layer may get, 2 to 8, at least two of them.
        static: how all else is quantized; its `weights` and `weight_bits` are not used.
        rows: on which the change of the outputs is seen, the first of `train` (of `validation` where there is none).

    Raises:
        SettingError: a setting out of its range.
    """

    average: float = 4.0
    choices: tuple[int, ...] = (2, 3, 4, 6, 8)
    static: Static = field(default_factory=Static)
    rows: int = 32

    def __post_init__(self) -> None:
        if isinstance(self.choices, Iterable) and not isinstance(self.choices, str):
            object.__setattr__(self, "choices", tuple(self.choices))
        if isinstance(self.static, Mapping):  # as a recipe's JSON holds it
            object.__setattr__(self, "static", Static(**self.static))
        if not isinstance(self.static, Static):
            raise SettingError(f"static is {self.static!r}", where="Mixed", remedy="give quantize.Static(...)")
        fit = isinstance(self.choices, tuple) and all(is_whole(bits, 2) and bits <= 8 for bits in self.choices)
        if not fit or len(set(self.choices)) < 2:
            raise SettingError(f"choices={self.choices!r}", where="Mixed", remedy="give two or more, each from 2 to 8")
        object.__setattr__(self, "choices", tuple(sorted(set(self.choices))))
        if not (is_number(self.average) and self.choices[0] <= self.average <= self.choices[-1]):
            raise SettingError(
                f"average={self.average!r}",
                where="Mixed",
                remedy=f"give a number from {self.choices[0]} to {self.choices[-1]}, what the choices allow",
            )
        check_whole(self.rows, 1, name="rows", where="Mixed")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a quantized graph; its notes say which layer got how many bits.

        Raises:
            DataError: no rows, or rows of another shape.
            SettingError: nothing to quantize, or weights of another precision than float32.
        """
        check_quantizable(graph, "Mixed")
        prepared = prepare(graph, self.static.attention)
        placement = replace(self.static, weight_bits=()).placed(prepared, target)
        layers = _with_own_weights(prepared, placement.weights)
        inputs = [torch.cat(parts) for parts in zip(*calibration_batches(graph, task, self.rows), strict=True)]
        chosen = self._chosen(prepared, layers, [tensor.to(prepared.device) for tensor in inputs])
        quantized = replace(self.static, weight_bits=tuple(chosen.items()))(graph, task, target)
        told = ", ".join(f"{name} {bits}" for name, bits in chosen.items())
        quantized.notes = (*quantized.notes, f"quantize.Mixed: bits of weights: {told}")
        return quantized

    def _chosen(self, graph: Graph, layers: dict[str, Node], inputs: Sequence[Tensor]) -> dict[str, int]:
        errors = {name: self._errors(graph, layer, inputs) for name, layer in layers.items()}
        sizes = {name: _weight(graph, layer).numel() for name, layer in layers.items()}
        chosen = dict.fromkeys(layers, self.choices[0])
        left = self.average * sum(sizes.values()) - sum(chosen[name] * sizes[name] for name in layers)
        heap: list[tuple[float, str, int]] = []

        def offer(name: str) -> None:
            """Put up the step that takes off most error for its bits: a longer one where the next helps little."""
            now = chosen[name]
            steps = [bits for bits in self.choices if bits > now]
            gains = {bits: (errors[name][now] - errors[name][bits]) / ((bits - now) * sizes[name]) for bits in steps}
            if gains:
                best = max(gains, key=lambda bits: gains[bits])
                heapq.heappush(heap, (-gains[best], name, best))

        for name in layers:
            offer(name)
        while heap:
            _, name, bits = heapq.heappop(heap)
            spent = (bits - chosen[name]) * sizes[name]
            if spent <= left:
                left -= spent
                chosen[name] = bits
                offer(name)
        return chosen

    def _errors(self, graph: Graph, layer: Node, inputs: Sequence[Tensor]) -> dict[int, float]:
        """Return by how much the outputs move where the weights of one layer have so many bits, squared and summed."""
        weight = _weight(graph, layer)
        with torch.no_grad():
            whole, wanted = weight.clone(), floats_of(graph.flat(*inputs))
            found = {}
            for bits in self.choices:
                affine = weight_affine(whole, bits, self.static.granularity)
                weight.copy_(affine.dequantize(affine.quantize(whole)))
                found[bits] = float((floats_of(graph.flat(*inputs)) - wanted).square().sum())
            weight.copy_(whole)
        return found


def _with_own_weights(graph: Graph, names: Sequence[str]) -> dict[str, Node]:
    """Return the layers by name, of those that share a weight the first."""
    nodes = {node.name: node for node in graph.module.graph.nodes}
    found: dict[str, Node] = {}
    for name in names:
        weight = argument(nodes[name], "weight")
        if reads_tensor(weight) and all(argument(layer, "weight") is not weight for layer in found.values()):
            found[name] = nodes[name]
    return found


def _weight(graph: Graph, layer: Node) -> Tensor:
    return find(graph.module, str(argument(layer, "weight").target)).detach()

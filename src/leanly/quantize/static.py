"""Static: integer weights and activations after training, ranges from a calibration stream."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph
from leanly.graph import quantizer as _operators  # noqa: F401  (registers leanly::fake_quantize)
from leanly.graph.attention import expand_attention
from leanly.graph.folding import fold_batch_norm
from leanly.graph.statistics import Histogram
from leanly.graph.tensors import find, put, read_attr
from leanly.quantize.affine import Affine, from_range
from leanly.quantize.calibration import calibrate
from leanly.quantize.observers import observer_named
from leanly.quantize.placement import KERNELS, Placement, place
from leanly.target import Target
from leanly.task import Task


@dataclass(frozen=True)
class Static:
    """Quantize weights and activations to integers, ranges fixed from calibration data.

    `x_int = round(x * scale + shift)`; weights symmetric around zero, activations affine. Batch norm is folded first.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".

    Args:
        weights: bits of weights; 8 becomes 7 where the machine has no VNNI (its 16-bit sums would saturate).
        activations: bits of activations.
        observer: "mse", "percentile" or "minmax".
        granularity: "channel" for a scale an output channel of weights, "tensor" for one.
        kernels: whose integer kernels the quantizers are placed for: "onnxruntime", "openvino", or "" for the
            target's first.
        attention: quantize the products inside attention as well.
        symmetric: activations that go below zero get a symmetric range.
        float_nodes: names of nodes that stay float (see `graph.cost().nodes`).
        samples: calibration rows, the first of `train` (of `validation` where there is no `train`).
    """

    weights: int = 8
    activations: int = 8
    observer: str = "mse"
    granularity: str = "channel"
    kernels: str = ""
    attention: bool = True
    symmetric: bool = False
    float_nodes: tuple[str, ...] = ()
    samples: int = 300

    def __post_init__(self) -> None:
        observer_named(self.observer)
        for name, bits in (("weights", self.weights), ("activations", self.activations)):
            if not 2 <= bits <= 8:
                raise SettingError(f"{name}={bits} bits can't be used", where="Static", remedy="use 2 to 8")
        if self.granularity not in ("channel", "tensor"):
            raise SettingError(
                f"granularity {self.granularity!r} is unknown", where="Static", remedy='use "channel" or "tensor"'
            )
        if self.kernels not in ("", *KERNELS):
            raise SettingError(
                f"no integer kernels are known for {self.kernels!r}", where="Static", remedy=f"use {', '.join(KERNELS)}"
            )
        if self.samples < 1:
            raise SettingError(f"samples={self.samples}", where="Static", remedy="use at least one calibration row")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph with a quantizer on every value that starts or ends an integer kernel.

        Raises:
            DataError: no calibration data, or NaN while calibrating.
            SettingError: nothing to quantize, or a float node that does not exist.
        """
        graph = prepare(graph, self.attention)
        self._check_names(graph)
        placement = place(
            graph.module.graph, kernels=self._kernels(target), float_nodes=self.float_nodes, products=self.attention
        )
        if not placement.weights:
            raise SettingError(
                "the network has nothing to quantize (no convolution or linear layer is left)",
                where="Static",
                remedy="shorten float_nodes or keep the model in float",
            )
        histograms = calibrate(graph, placement.activations.values(), task, self.samples)
        self._insert(graph, placement, histograms, self._weight_bits(target))
        return graph

    def _kernels(self, target: Target | None) -> str:
        if self.kernels:
            return self.kernels
        allowed = target.allowed() if target is not None else KERNELS
        return next((name for name in allowed if name in KERNELS), KERNELS[0])

    def _weight_bits(self, target: Target | None) -> int:
        if target is not None and self.weights == 8 and not target.vnni:
            return 7
        return self.weights

    def _check_names(self, graph: Graph) -> None:
        names = [node.name for node in graph.module.graph.nodes]
        for name in self.float_nodes:
            if name not in names:
                near = ", ".join(get_close_matches(name, names, 3)) or "none"
                raise SettingError(
                    f"float_nodes names {name!r}, which is no node", where="Static", remedy=f"nearest names: {near}"
                )

    def _insert(self, graph: Graph, placement: Placement, histograms: dict[str, Histogram], weight_bits: int) -> None:
        module = graph.module
        nodes = {node.name: node for node in module.graph.nodes}
        for name, source in placement.activations.items():
            add_quantizer(graph, nodes[name], self._activation(histograms[source]))
        for name in placement.weights:
            weight = nodes[name].args[1]
            assert isinstance(weight, Node)
            if weight.op != "get_attr":
                continue  # a weight that two layers share has its quantizer already
            values = find(module, str(weight.target)).detach()
            add_quantizer(graph, weight, weight_affine(values, weight_bits, self.granularity))
        module.graph.lint()
        module.recompile()

    def _activation(self, histogram: Histogram) -> Affine:
        symmetric = self.symmetric and histogram.minimum < 0
        low, high = observer_named(self.observer)(histogram, self.activations, symmetric)
        return from_range(
            torch.tensor(low), torch.tensor(high), bits=self.activations, symmetric=symmetric, signed=symmetric
        )


def prepare(graph: Graph, attention: bool) -> Graph:
    """Return the graph that quantizers are placed in: eval mode, batch norm folded, attention written out."""
    graph = fold_batch_norm(graph)
    return expand_attention(graph) if attention else graph


def weight_affine(weight: Tensor, bits: int, granularity: str) -> Affine:
    """Return symmetric integers for a weight, dimension 0 being its output channels."""
    if granularity == "channel":
        flat = weight.reshape(weight.shape[0], -1)
        low, high, axis = flat.amin(1), flat.amax(1), 0
    else:
        low, high, axis = weight.amin(), weight.amax(), -1
    return from_range(low, high, bits=bits, symmetric=True, signed=True, narrow=True, axis=axis)


def add_quantizer(graph: Graph, value: Node, affine: Affine) -> Node:
    """Put a quantizer behind a node; all its readers read the quantized value."""
    module = graph.module
    name = f"quantizers.{value.name}"
    put(module, f"{name}.scale", affine.scale)
    put(module, f"{name}.shift", affine.shift)
    with module.graph.inserting_after(value):
        scale = read_attr(module, f"{name}.scale")
    with module.graph.inserting_after(scale):
        shift = read_attr(module, f"{name}.shift")
    with module.graph.inserting_after(shift):
        node = module.graph.call_function(
            torch.ops.leanly.fake_quantize.default, (value, scale, shift, affine.axis, affine.low, affine.high)
        )
    node.meta = dict(value.meta)
    value.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    return node

"""Static: integer weights and activations after training, ranges from a calibration stream."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph, check_nodes
from leanly.graph.attention import expand_attention
from leanly.graph.computed import is_constant
from leanly.graph.folding import fold_batch_norm
from leanly.graph.nodes import argument, reads_tensor
from leanly.graph.statistics import Histogram
from leanly.graph.tensors import find
from leanly.quantize.affine import Affine, from_range
from leanly.quantize.binary import weight_in_signs
from leanly.quantize.calibration import calibrate
from leanly.quantize.forms import Form, check_runs
from leanly.quantize.observers import observer_named, percentile
from leanly.quantize.placement import KERNELS, WEIGHTED, Placement, place, readers
from leanly.quantize.quantizers import add_quantizer, check_quantizable
from leanly.quantize.saturation import adds_in_pairs, largest_pairs
from leanly.scalars import check_flag, check_whole, is_number, is_whole, names_of
from leanly.suggest import suggestion
from leanly.target import Target
from leanly.task import Task

WIDE = 8
"""Bits of what is added, merged or averaged: few are for what is multiplied."""
SHARES = tuple(1.0 - 0.01 * step for step in range(80))
"""Of a weight's largest value: the ranges that are tried for few bits."""


@dataclass(frozen=True)
class Static:
    """Quantize weights and activations to integers, ranges fixed from calibration data.

    `x_int = round(x * scale + shift)`; weights symmetric around zero, activations affine. Batch norm is folded first.
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".

    Args:
        weights: bits of weights. Below 8 the range is the one with the least mean squared error, at 8 all that was
            seen; where the target, by default this machine, has no VNNI, it is so much wider that sums of two products
            stay inside the 16 bits that they have there.
        activations: bits of what layers, and products inside attention, multiply; what is added, merged or averaged
            has 8.
        observer: "mse", "percentile", "entropy" or "minmax".
        percentile: of the observer of that name: the share of the values that lies below the upper end, in percent.
        granularity: "channel" for a scale an output channel of weights, "tensor" for one.
        kernels: whose integer kernels the quantizers are placed for: "onnxruntime", "openvino", or "" for the
            target's first.
        attention: quantize the products inside attention as well.
        symmetric: activations that go below zero get a symmetric range.
        float_nodes: names of nodes that stay float (see `graph.cost().nodes`).
        layer_bits: (name of a node, bits) pairs: that layer's weights and what it reads get so many bits.
        weight_bits: the same for a layer's weights alone.
        end_bits: bits of the first and the last layer, which suffer most from few; 0 gives them what the others have.
        samples: calibration rows of `train` (of `validation` where there is no `train`).
        draw: 0 takes the first rows; any other number draws rows at random, the same ones each time.
    """

    weights: int = 8
    activations: int = 8
    observer: str = "mse"
    percentile: float = 99.99
    granularity: str = "channel"
    kernels: str = ""
    attention: bool = True
    symmetric: bool = False
    float_nodes: tuple[str, ...] = ()
    layer_bits: tuple[tuple[str, int], ...] = ()
    weight_bits: tuple[tuple[str, int], ...] = ()
    end_bits: int = 0
    samples: int = 300
    draw: int = 0

    def __post_init__(self) -> None:
        observer_named(self.observer)
        for setting in ("layer_bits", "weight_bits"):
            given = getattr(self, setting)
            try:
                pairs = tuple((str(name), bits) for name, bits in dict(given).items())
            except (TypeError, ValueError) as error:
                raise SettingError(
                    f"{setting} is {given!r}", where="Static", remedy='give bits by name: {"conv2d_1": 4}'
                ) from error
            if len(pairs) < len(given):
                raise SettingError(
                    f"{setting} names a layer twice: {given!r}", where="Static", remedy="give it bits once"
                )
            object.__setattr__(self, setting, pairs)
        ends = () if is_whole(self.end_bits, 0) and self.end_bits == 0 else (("end_bits", self.end_bits),)
        all_bits = (("weights", self.weights), ("activations", self.activations), *ends)
        for name, bits in (*all_bits, *self.layer_bits, *self.weight_bits):
            if not is_whole(bits, 2) or bits > 8:
                raise SettingError(
                    f"{name}={bits!r} bits can't be used",
                    where="Static",
                    remedy="use 2 to 8, as an int; quantize.Binary for 1",
                )
        if self.granularity not in ("channel", "tensor"):
            raise SettingError(
                f"granularity {self.granularity!r} is unknown", where="Static", remedy='use "channel" or "tensor"'
            )
        if self.kernels not in ("", *KERNELS):
            raise SettingError(
                f"no integer kernels are known for {self.kernels!r}", where="Static", remedy=f"use {', '.join(KERNELS)}"
            )
        if not (is_number(self.percentile) and 50 < self.percentile < 100):
            raise SettingError(
                f"percentile={self.percentile!r}", where="Static", remedy="use a number between 50 and 100, say 99.99"
            )
        object.__setattr__(self, "float_nodes", names_of(self.float_nodes, name="float_nodes", where="Static"))
        check_flag(self.attention, name="attention", where="Static")
        check_flag(self.symmetric, name="symmetric", where="Static")
        check_whole(self.draw, 0, name="draw", where="Static")
        check_whole(self.samples, 1, name="samples", where="Static")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph with a quantizer on every value that starts or ends an integer kernel.

        Raises:
            DataError: no calibration data, rows of another shape, NaN while calibrating, or too little of it for the
                percentile.
            SettingError: nothing to quantize, weights of another precision than float32, a float node that does not
                exist, or a target whose runtimes have no integer kernels.
        """
        check_quantizable(graph, "Static")
        check_runs(Form.INTEGERS, target, "Static")
        graph = prepare(graph, self.attention)
        placement = self.placed(graph, target)
        left = _left_in_float(graph, {*placement.weights, *placement.products, *self.float_nodes})
        if not placement.weights:
            raise SettingError(
                f"the network has nothing to quantize: {left or 'no convolution or linear layer is left'}",
                where="Static",
                remedy="shorten float_nodes" if self.float_nodes else "keep the model in float",
            )
        histograms = calibrate(graph, placement.activations.values(), task, self.samples, self.draw)
        self._insert(graph, placement, histograms, target)
        if left:
            graph.notes = (*graph.notes, f"quantize.Static: {left}")
        return graph

    def placed(self, graph: Graph, target: Target | None) -> Placement:
        """Return where quantizers go in a prepared graph.

        Raises:
            SettingError: a setting names a node that does not exist, or gives bits to one that has no integer weights.
        """
        check_nodes(graph, "float_nodes", self.float_nodes, "Static")
        for setting in ("layer_bits", "weight_bits"):
            check_nodes(graph, setting, [name for name, _ in getattr(self, setting)], "Static")
        placement = place(
            graph.module.graph, kernels=self._kernels(target), float_nodes=self.float_nodes, products=self.attention
        )
        for setting in ("layer_bits", "weight_bits"):
            for name, _ in getattr(self, setting):
                if name in self.float_nodes:
                    raise SettingError(
                        f"{name!r} is both in {setting} and in float_nodes",
                        where="Static",
                        remedy="take it out of one of the two",
                    )
                if name not in placement.weights:
                    raise SettingError(
                        f"{setting} names {name!r}, whose weights are not quantized",
                        where="Static",
                        remedy=suggestion(name, placement.weights),
                    )
        return placement

    def _kernels(self, target: Target | None) -> str:
        if self.kernels:
            return self.kernels
        allowed = target.allowed() if target is not None else KERNELS
        return next((name for name in allowed if name in KERNELS), KERNELS[0])

    def _insert(
        self, graph: Graph, placement: Placement, histograms: dict[str, Histogram], target: Target | None
    ) -> None:
        module = graph.module
        nodes = {node.name: node for node in module.graph.nodes}
        ends = {placement.weights[0], placement.weights[-1]} if self.end_bits else set()
        own = {**dict.fromkeys(ends, self.end_bits), **dict(self.layer_bits)}
        few = {**own, **dict(self.weight_bits)}
        asked = dict.fromkeys(placement.products, self.activations)
        asked |= {name: own.get(name, self.activations) for name in placement.weights}
        for name, source in placement.activations.items():
            self._insert_activation(graph, nodes[name], histograms[source], asked)
        vnni = (target or Target()).vnni
        for name in placement.weights:
            weight = argument(nodes[name], "weight")
            if weight.op != "get_attr":
                continue  # a weight that two layers share has its quantizer already
            values = find(module, str(weight.target)).detach()
            bits = few.get(name, self.weights)
            in_pairs = bits == 8 and not vnni and adds_in_pairs(nodes[name], values)
            add_quantizer(graph, weight, weight_affine(values, bits, self.granularity, in_pairs=in_pairs))
        module.graph.lint()
        module.recompile()

    def _insert_activation(self, graph: Graph, value: Node, histogram: Histogram, asked: dict[str, int]) -> None:
        """Put a quantizer behind a value, and one of fewer bits before those that multiply it in fewer."""
        reading = [(reader, entry, asked.get(reader.name, WIDE)) for reader, entry in readers(value)]
        most = max((bits for _, _, bits in reading), default=WIDE)
        first = add_quantizer(graph, value, self._activation(histogram, most))
        fewer: dict[tuple[Node, int], list[Node]] = {}
        for reader, entry, bits in reading:
            if bits < most:
                fewer.setdefault((first if entry is value else entry, bits), []).append(reader)
        for (entry, bits), some in fewer.items():
            add_quantizer(graph, entry, self._activation(histogram, bits), some)

    def _activation(self, histogram: Histogram, bits: int) -> Affine:
        symmetric = self.symmetric and histogram.minimum < 0
        observer = observer_named(self.observer)
        if observer is percentile:
            observer = partial(percentile, share=self.percentile / 100)
        low, high = observer(histogram, bits, symmetric)
        return from_range(torch.tensor(low), torch.tensor(high), bits=bits, symmetric=symmetric, signed=symmetric)


def _left_in_float(graph: Graph, known: set[str]) -> str:
    """Say which layers multiply and are left, and why."""
    operators = {node.name: node.operator for node in graph.cost().nodes if node.macs}
    left: dict[str, list[str]] = {}
    for node in graph.module.graph.nodes:
        if node.name in operators and node.name not in known:
            left.setdefault(_why_left(node), []).append(f"{node.name} ({operators[node.name]})")
    return "; ".join(f"{why}: {', '.join(names)}" for why, names in left.items())


def _why_left(layer: Node) -> str:
    if weight_in_signs(layer):
        return "in one bit already"
    if layer.target in WEIGHTED and not reads_tensor(argument(layer, "weight")):
        return "in float, since their weights depend on what the network is given"
    if layer.target in WEIGHTED and is_constant(argument(layer, "input")):
        return "in float, since they read nothing but parameters"
    return "in float, since no integer kernel is known"


def prepare(graph: Graph, attention: bool) -> Graph:
    """Return the graph that quantizers are placed in: eval mode, weights stored, batch norm folded, attention written
    out.
    """
    graph = fold_batch_norm(graph)
    return expand_attention(graph) if attention else graph


def weight_affine(weight: Tensor, bits: int, granularity: str, *, in_pairs: bool = False) -> Affine:
    """Return symmetric integers for a weight, dimension 0 being its output channels.

    Args:
        weight: of a convolution or a linear layer.
        bits: 2 to 8.
        granularity: "channel" or "tensor".
        in_pairs: two products that lie next to each other are added in 16 bits.
    """
    flat = weight.reshape(weight.shape[0], -1) if granularity == "channel" else weight.reshape(1, -1)
    bound = largest_pairs(weight).reshape(len(flat), -1).amax(1) if in_pairs else flat.abs().amax(1)
    if bits < 8:
        bound = _least_error(flat, bound, bits)
    axis = 0
    if granularity != "channel":
        bound, axis = bound[0], -1
    return from_range(-bound, bound, bits=bits, symmetric=True, signed=True, narrow=True, axis=axis)


def _least_error(rows: Tensor, bound: Tensor, bits: int) -> Tensor:
    """Return for each row the symmetric range with the least squared error of rounding and clamping."""
    best, least = bound, torch.full_like(bound, float("inf"))
    for share in SHARES:
        tried = bound * share
        affine = from_range(-tried, tried, bits=bits, symmetric=True, signed=True, narrow=True, axis=0)
        error = (affine.dequantize(affine.quantize(rows)) - rows).square().sum(1)
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best

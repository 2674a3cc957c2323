"""GPTQ: weights are rounded column by column, and what each rounding loses the columns after it make up for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.columns import columns, damped, has_columns, inverse_factor
from leanly.graph.nodes import argument
from leanly.graph.shapes import bytes_a_row
from leanly.graph.slopes import output_slopes
from leanly.graph.tensors import find
from leanly.quantize.affine import Affine
from leanly.quantize.forms import Form, check_runs
from leanly.quantize.quantizers import (
    is_quantizer,
    quantizes_values,
    read_affine,
    rounded_weight,
    weight_quantizers,
    write_weight,
)
from leanly.quantize.walking import Stop, Walk, reads_quantized_weight
from leanly.scalars import check_whole, is_number
from leanly.target import Target
from leanly.task import Task

aten = torch.ops.aten
BLOCK = 128
"""Columns."""
ROWS = 4096
"""Of a weight, rounded at once."""
STRIPE = 512
"""Rows or columns of a Hessian that are computed, or moved, at once."""
CHUNK = 16
"""Calibration rows that run at once, at most."""
SLOPES = 2**27
"""Bytes that all values of a network may take on the way to the slopes; where a row takes more, fewer run at once."""


@dataclass(frozen=True)
class GPTQ:
    """Round the weights of linear layers, convolutions and embeddings so that the network's outputs change least.

    Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"; the
    columns that matter most go first. What a layer computes at each place counts as much as the outputs move with it,
    padding not at all: Kim et al. 2025, "GuidedQuant: Large Language Model Quantization via Exploiting End Loss
    Guidance", with the network's outputs in place of a loss, so that no labels are read. Put it behind what places the
    quantizers of weights.

    Args:
        samples: calibration rows, the first of `train` (of `validation` where there is no `train`).
        damping: share of the mean of its diagonal that is added to a layer's Hessian.

    Raises:
        SettingError: a setting out of its range.
    """

    samples: int = 300
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_whole(self.samples, 1, name="samples", where="GPTQ")
        if not (is_number(self.damping) and self.damping > 0):
            raise SettingError(f"damping is {self.damping!r}", where="GPTQ", remedy="give a number above 0")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph whose quantized weights lie on their integers.

        Raises:
            SettingError: no weight is quantized, or the target's runtimes have no kernels for what is.
            DataError: the task has no calibration data.
        """
        check_graph(graph, "GPTQ")
        graph = graph.clone().eval()
        weight_quantizers(graph, "GPTQ")
        check_runs(Form.INTEGERS if quantizes_values(graph) else Form.PACKED, target, "GPTQ")
        # slopes are of the same chunks, so that places come in one order; the values of the whole network lead to them
        chunk = max(1, min(CHUNK, SLOPES // max(1, sum(bytes_a_row(graph).values()))))
        walk = Walk(graph, task, self.samples, "GPTQ", chunk=chunk)
        read = [node for node in graph.module.graph.nodes if reads_quantized_weight(node)]
        tables = [node for node in read if node.target is aten.embedding.default]
        layers = [node for node in read if has_columns(node) and is_quantizer(argument(node, "weight"))]
        stops = zip(walk.segments, walk.joined, strict=False)
        joined = {name: chunks for segment, chunks in stops for name in segment.nodes}
        judged = {layer: joined.get(layer.name, 0) for layer in layers}
        importance, hessians = _slopes(graph, judged, tables, walk.chunks)
        rounded = self._round(graph, hessians)
        for stop in walk:
            inside = [node for node in layers if node.name in stop.segment.nodes]
            left = [node for node in inside if argument(node, "weight") not in rounded]
            rounded |= self._round(graph, _hessians(walk, stop, left, importance))
        return graph

    def _round(self, graph: Graph, hessians: dict[Node, Tensor]) -> set[Node]:
        """Round the weights behind some quantizers and return these; their Hessians, which are large, are used up."""
        quantizers = set(hessians)
        for quantizer in list(hessians):
            weight = find(graph.module, str(argument(quantizer, "x").target)).detach()
            affine = read_affine(graph.module, quantizer)
            write_weight(graph.module, quantizer, _rounded(weight, affine, hessians.pop(quantizer), self.damping))
        return quantizers


def _slopes(
    graph: Graph, layers: dict[Node, int], tables: list[Node], chunks: list[list[Tensor]]
) -> tuple[dict[Node, Tensor], dict[Node, Tensor]]:
    """Return how far the outputs move with what layers compute at each place, and with what is read from tables.

    Args:
        graph: as it is before anything is rounded.
        layers: for each a mean square is returned, `[groups, rows x places]`, of so many of the chunks.
        tables: embeddings; for the quantizer of each the slopes' outer products are summed, `[1, columns, columns]`.
        chunks: flat inputs of some rows each.
    """
    importance: dict[Node, Tensor] = {}
    hessians: dict[Node, Tensor] = {}
    seen = dict.fromkeys(layers, 0)
    for number, slopes in enumerate(output_slopes(graph, [node.name for node in (*layers, *tables)], chunks)):
        for layer, count in layers.items():
            if layer.name in slopes and number < count:
                found = _of_places(layer, slopes[layer.name], rounded_weight(graph.module, layer).ndim - 2)
                stop = seen[layer] + found.shape[1]
                held = importance.get(layer)
                if held is None or held.shape[1] < stop:
                    # small tensors that stay, between the large ones that go, would keep their memory from use
                    importance[layer] = found.new_empty(len(found), max(count * found.shape[1], stop))
                    if held is not None:
                        importance[layer][:, : seen[layer]] = held[:, : seen[layer]]
                importance[layer][:, seen[layer] : stop] = found
                seen[layer] = stop
        for table in tables:
            if table.name in slopes:
                flat = slopes[table.name].flatten(0, -2)
                _add(hessians, argument(table, "weight"), flat.T[None], flat.T[None])
    return {layer: found[:, : seen[layer]] for layer, found in importance.items()}, hessians


def _of_places(layer: Node, slope: Tensor, behind: int) -> Tensor:
    """Return the mean square over the channels of each group, `[groups, rows x places]`.

    Args:
        layer: linear, or a convolution.
        slope: of what it computes.
        behind: dimensions behind the channels.
    """
    if layer.target is aten.linear.default:
        return slope.square().mean(-1).reshape(1, -1)
    grouped = slope.flatten(-behind).unflatten(-2, (argument(layer, "groups"), -1))
    return grouped.square().mean(-2).movedim(-2, 0).flatten(1)


def _hessians(walk: Walk, stop: Stop, layers: list[Node], importance: dict[Node, Tensor]) -> dict[Node, Tensor]:
    """Return the summed outer products of the inputs, `[groups, columns, columns]`, by the quantizer of the weight.

    Inputs of a layer that no output follows from count alike.
    """
    found: dict[Node, Tensor] = {}
    seen = dict.fromkeys(layers, 0)

    for _ in walk.pieces(walk.roughly, stop.segment, stop.rough if layers else []):
        for node in layers:
            quantizer = argument(node, "weight")
            given, weight = (walk.roughly.value(source) for source in (argument(node, "input"), quantizer))
            multiplied = columns(given, node, weight.shape[2:]).detach()
            weighed = multiplied
            if node in importance:
                weighed = multiplied * importance[node][:, None, seen[node] : seen[node] + multiplied.shape[2]]
                seen[node] += multiplied.shape[2]
            _add(found, quantizer, weighed, multiplied)
    return found


def _add(sums: dict[Node, Tensor], quantizer: Node, left: Tensor, right: Tensor) -> None:
    """Add products of `[groups, columns, places]`, some columns at a time: wide layers have large Hessians."""
    if quantizer not in sums:
        sums[quantizer] = left.new_zeros(len(left), left.shape[1], right.shape[1], dtype=torch.float64)
    for start in range(0, left.shape[1], STRIPE):
        some = slice(start, start + STRIPE)
        sums[quantizer][:, some] += left[:, some] @ right.transpose(1, 2)


def _sort(hessian: Tensor, order: Tensor) -> Tensor:
    """Sort the rows and the columns of a Hessian, some at a time in its own place, and return it."""
    for start in range(0, len(hessian), STRIPE):
        some = slice(start, start + STRIPE)
        hessian[some] = hessian[some, order]
    for start in range(0, len(hessian), STRIPE):
        some = slice(start, start + STRIPE)
        hessian[:, some] = hessian[order, some]
    return hessian


def _rounded(weight: Tensor, affine: Affine, hessians: Tensor, damping: float) -> Tensor:
    """Round a weight; each group of its output channels by the Hessian of its inputs, which is used up."""
    rows = weight.reshape(len(hessians), -1, weight[0].numel())
    scale, shift = (values.expand(weight.shape).reshape(rows.shape) for values in affine.along(weight))
    parts = []
    for group, hessian in enumerate(hessians):
        whole = damped(hessian, damping)
        order = torch.argsort(whole.diagonal(), descending=True)
        factor = inverse_factor(_sort(whole, order))
        for start in range(0, rows.shape[1], ROWS):
            some = [values[group, start : start + ROWS][:, order].double() for values in (rows, scale, shift)]
            done = _rounded_rows(some[0], Affine(some[1], some[2], affine.low, affine.high), factor)
            parts.append(done[:, torch.argsort(order)].to(weight.dtype))
    return torch.cat(parts).reshape(weight.shape)


def _rounded_rows(rows: Tensor, affine: Affine, factor: Tensor) -> Tensor:
    """Round `[channels, columns]`; the affine has a scale for every element.

    What a block of columns loses the columns behind it make up for at once, which is the same and takes less time.
    """
    scale, shift = affine.scale, affine.shift
    for start in range(0, len(factor), BLOCK):
        stop = min(start + BLOCK, len(factor))
        lost = torch.empty_like(rows[:, start:stop])
        for place in range(start, stop):
            one = Affine(scale[:, place], shift[:, place], affine.low, affine.high, 0)
            rounded = one.dequantize(one.quantize(rows[:, place]))
            lost[:, place - start] = (rows[:, place] - rounded) / factor[place, place]
            rows[:, place] = rounded
            rows[:, place + 1 : stop] -= lost[:, place - start, None] * factor[place, place + 1 : stop]
        rows[:, stop:] -= lost @ factor[start:stop, stop:]
    return rows

"""Saturation: without VNNI, kernels multiply bytes and add two neighbouring products in 16 bits (`vpmaddubsw`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional

from leanly.graph import Graph
from leanly.graph.layers import CONVOLUTIONS
from leanly.graph.nodes import argument
from leanly.graph.tensors import find
from leanly.quantize.quantizers import (
    layers_of,
    of_layer,
    read_affine,
    weight_quantizers,
    write_scale,
    write_weight,
)

MOST = 128
"""Of two neighbouring weights: 255 times as much fits into 16 bits."""


def adds_in_pairs(layer: Node, weight: Tensor) -> bool:
    """Say whether kernels add products of a layer in pairs: where each output reads one channel, they do not."""
    depthwise = weight.ndim == 4 and weight.shape[1] == 1 and layer.target in CONVOLUTIONS
    return not (depthwise and weight.shape[0] == argument(layer, "groups"))


def largest_pairs(weight: Tensor) -> Tensor:
    """Return for each output channel the largest sum of two neighbouring weights of one sign.

    Channels of the input are innermost; whether an odd number of them is filled up to an even one depends on the
    runtime. In a range as wide as these sums, two integers come to 127 and one of rounding: no more than `MOST`.

    Args:
        weight: `[outputs, inputs, ...]`.
    """
    rows = weight.movedim(1, -1)
    filled = functional.pad(rows, (0, rows.shape[-1] % 2))
    return torch.maximum(_pair_sums(rows.flatten(1)), _pair_sums(filled.flatten(1)))


def widened(graph: Graph) -> Graph:
    """Return the graph with wider steps where two neighbouring products would pass 16 bits, as a note says.

    After a cut channels have other neighbours, and training moves weights; a graph in which none passes comes back.
    """
    found = {}
    for quantizer in filter(of_layer, graph.module.graph.nodes):
        name = str(argument(quantizer, "x").target)
        weight, affine = find(graph.module, name).detach(), read_affine(graph.module, quantizer)
        if affine.high < MOST // 2 or affine.scale.ndim > 1:
            continue
        if any(adds_in_pairs(layer, weight) for layer in layers_of(quantizer)):
            integers = affine.quantize(weight)
            sums = largest_pairs(integers.to(weight.dtype))
            sums = sums if affine.scale.ndim else sums.max()
            if bool((sums > MOST).any()):
                found[name] = affine.dequantize(integers), affine.scale * ((MOST - 1) / sums).where(sums > MOST, 1)
    if not found:
        return graph
    graph = graph.clone()
    quantizers = weight_quantizers(graph, "lower")
    for name, (weight, scale) in found.items():
        write_weight(graph.module, quantizers[name], weight)
        write_scale(graph.module, quantizers[name], scale)
    told = f"steps of {', '.join(found)} are wider: this processor adds neighbouring products in 16 bits"
    graph.notes = (*graph.notes, f"lower: {told}")
    return graph


def _pair_sums(rows: Tensor) -> Tensor:
    pairs = functional.pad(rows, (0, rows.shape[1] % 2)).unflatten(1, (-1, 2))
    return torch.maximum(pairs.clamp(min=0).sum(2), pairs.clamp(max=0).sum(2).neg()).amax(1)

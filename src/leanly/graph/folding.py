"""Batch norm folded into the convolution or linear layer before it, as it runs in eval mode."""

from __future__ import annotations

import torch
from torch import nn
from torch.fx import Node

from leanly.graph.graph import Graph
from leanly.graph.tensors import find, put, read_attr

aten = torch.ops.aten
FOLDABLE = {
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.conv3d.default: 0,
    aten.conv1d.padding: 0,
    aten.conv2d.padding: 0,
    aten.conv3d.padding: 0,
    aten.linear.default: 0,
    aten.conv_transpose2d.input: 1,
}
"""Layers a batch norm folds into, with the weight's dimension of output channels."""


def fold_batch_norm(graph: Graph) -> Graph:
    """Return a graph in which every batch norm that follows a layer of its own is part of that layer.

    A batch norm whose layer has other readers, or whose weights are shared, stays. The result is for eval mode only.
    """
    graph = graph.clone()
    graph.eval()
    module = graph.module
    for norm in list(module.graph.nodes):
        if norm.target is not aten.batch_norm.default:
            continue
        layer = norm.args[0]
        if layer.target in FOLDABLE and len(layer.users) == 1 and _own_weights(layer) and not _grouped_transpose(layer):
            _fold(graph, layer, norm)
    module.graph.eliminate_dead_code()
    module.recompile()
    return graph


def _own_weights(layer: Node) -> bool:
    weight = layer.args[1]
    return isinstance(weight, Node) and weight.op == "get_attr" and len(weight.users) == 1


def _grouped_transpose(layer: Node) -> bool:
    return layer.target is aten.conv_transpose2d.input and len(layer.args) > 6 and layer.args[6] != 1


def _fold(graph: Graph, layer: Node, norm: Node) -> None:
    module = graph.module

    def tensor(node: object) -> torch.Tensor | None:
        return find(module, str(node.target)) if isinstance(node, Node) else None

    gamma, beta, mean, variance = (tensor(node) for node in norm.args[1:5])
    assert mean is not None and variance is not None
    weight = find(module, str(layer.args[1].target))
    bias = tensor(layer.args[2]) if len(layer.args) > 2 else None
    with torch.no_grad():
        factor = torch.rsqrt(variance.double() + norm.args[7])
        if gamma is not None:
            factor = factor * gamma.double()
        shape = [1] * weight.ndim
        shape[FOLDABLE[layer.target]] = -1
        new_weight = (weight.double() * factor.reshape(shape)).to(weight.dtype)
        offset = (bias.double() if bias is not None else 0.0) - mean.double()
        new_bias = offset * factor + (beta.double() if beta is not None else 0.0)
    weight_name = str(layer.args[1].target)
    put(module, weight_name, nn.Parameter(new_weight))
    bias_name = weight_name.rpartition(".")[0] + ".bias" if weight_name.endswith("weight") else weight_name + "_bias"
    if len(layer.args) > 2 and isinstance(layer.args[2], Node):
        bias_name = str(layer.args[2].target)
    put(module, bias_name, nn.Parameter(new_bias.to(weight.dtype)))
    with module.graph.inserting_before(layer):
        bias_node = read_attr(module, bias_name)
    layer.args = (layer.args[0], layer.args[1], bias_node, *layer.args[3:])
    norm.replace_all_uses_with(layer)

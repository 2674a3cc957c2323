"""Batch norm folded into the convolution or linear layer before it, as it runs in eval mode."""

from __future__ import annotations

import torch
from torch import nn
from torch.fx import GraphModule, Node

from leanly.graph.binarizer import scaled_weight
from leanly.graph.computed import store_in
from leanly.graph.graph import Graph
from leanly.graph.nodes import argument, read_once, reads_tensor
from leanly.graph.norms import is_stored_norm, norm_of
from leanly.graph.tensors import drop_unread, find, free_name, put, read_attr

aten = torch.ops.aten
FOLDABLE: dict[object, int] = {
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
SIGNS = torch.ops.leanly.binarize_weight.default


def fold_batch_norm(graph: Graph) -> Graph:
    """Return a graph in which every batch norm that follows a layer of its own is part of that layer.

    A batch norm whose layer has other readers, or whose weights are shared, stays; a bias that others read is copied.
    Weights that are computed from parameters alone are stored first. The result is for eval mode only.
    """
    graph = graph.clone()
    graph.eval()
    module = graph.module
    store_in(module)
    for norm in list(module.graph.nodes):
        if not is_stored_norm(norm):
            continue
        layer = norm.args[0]
        if layer.target in FOLDABLE and len(layer.users) == 1 and _own_weights(layer) and not _grouped_transpose(layer):
            _fold(module, layer, norm)
    module.graph.eliminate_dead_code()
    drop_unread(module)
    module.recompile()
    return graph


def _own_weights(layer: Node) -> bool:
    weight, bias = argument(layer, "weight"), argument(layer, "bias")
    if isinstance(bias, Node) and not reads_tensor(bias):
        return False
    return reads_tensor(_stored(weight)) and len(weight.users) == len(_stored(weight).users) == 1


def _stored(weight: Node) -> Node:
    return argument(weight, "weight") if weight.target is SIGNS else weight


def _grouped_transpose(layer: Node) -> bool:
    return layer.target is aten.conv_transpose2d.input and argument(layer, "groups") != 1


def _fold(module: GraphModule, layer: Node, norm: Node) -> None:
    mean, factor, shift = norm_of(module, norm)
    weight_name = str(_stored(argument(layer, "weight")).target)
    old_bias = argument(layer, "bias")
    weight = find(module, weight_name)
    bias = find(module, str(old_bias.target)) if isinstance(old_bias, Node) else None
    with torch.no_grad():
        shape = [1] * weight.ndim
        shape[FOLDABLE[layer.target]] = -1
        if argument(layer, "weight").target is SIGNS:
            new_weight = scaled_weight(weight, factor)
        else:
            new_weight = (weight.double() * factor.reshape(shape)).to(weight.dtype)
        offset = (bias.double() if bias is not None else 0.0) - mean
        new_bias = offset * factor + shift
    if isinstance(old_bias, Node) and read_once(old_bias):
        bias_name = str(old_bias.target)
    else:
        bias_name = free_name(module, f"{weight_name.removesuffix('weight')}bias")
    put(module, weight_name, nn.Parameter(new_weight))
    put(module, bias_name, nn.Parameter(new_bias.to(weight.dtype)))
    with module.graph.inserting_before(layer):
        bias_node = read_attr(module, bias_name)
    layer.args = (*layer.args[:2], bias_node, *layer.args[3:])
    layer.kwargs = {name: value for name, value in layer.kwargs.items() if name != "bias"}
    norm.replace_all_uses_with(layer)

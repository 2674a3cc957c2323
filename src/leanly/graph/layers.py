"""The layers whose weights are learned: convolutions, transposed ones too, linear layers and products with a matrix."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph.checking import check_nodes
from leanly.graph.graph import Graph
from leanly.graph.nodes import MATRICES, argument, reads_tensor
from leanly.graph.quantizer import QUANTIZER
from leanly.graph.tensors import find

aten = torch.ops.aten
TRANSPOSED = frozenset({aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input})
CONVOLUTIONS = frozenset({aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding})
LAYERS = CONVOLUTIONS | TRANSPOSED | {aten.conv3d.default, aten.conv3d.padding, aten.linear.default, *MATRICES}


class Window(NamedTuple):
    """How the kernel of a convolution slides, each with a number for each of its dimensions."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    """Zeros put in front of each dimension, and `after` behind it."""
    after: tuple[int, ...]


def window_of(layer: Node, kernel: Sequence[int]) -> Window:
    """Return how a convolution slides.

    Args:
        layer: the convolution.
        kernel: the size of its kernel in each dimension.
    """
    stride, dilation = (each_way(argument(layer, name), len(kernel)) for name in ("stride", "dilation"))
    padding = argument(layer, "padding")
    if padding == "same":
        whole = [spread * (size - 1) for spread, size in zip(dilation, kernel, strict=True)]
        before = tuple(size // 2 for size in whole)
        return Window(stride, dilation, before, tuple(size - first for size, first in zip(whole, before, strict=True)))
    pads = each_way(0 if padding == "valid" else padding, len(kernel))
    return Window(stride, dilation, pads, pads)


def each_way(setting: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """Return the setting of a window in each dimension: one number stands for all of them."""
    found = (setting,) if isinstance(setting, int) else tuple(setting)
    return found * dimensions if len(found) == 1 else found


def learned_layers(graph: Graph) -> list[Node]:
    """Return the layers whose weight is a parameter, in order: fixed filters, which are buffers, are not among them."""
    layers = [node for node in graph.module.graph.nodes if node.target in LAYERS and reads_parameter(graph, node)]
    return [layer for layer in layers if layer.target not in MATRICES or _weight_of(graph, layer).ndim == 2]


def other_layers(graph: Graph) -> list[str]:
    """Return the names of what else multiplies with parameters, as recurrent layers do."""
    known = {layer.name for layer in learned_layers(graph)}
    nodes = {node.name: node for node in graph.module.graph.nodes}
    names = [node.name for node in graph.cost().nodes if node.macs and node.name not in known]
    return [name for name in names if any(_is_parameter(graph, one) for one in nodes[name].all_input_nodes)]


def reads_parameter(graph: Graph, layer: Node, name: str = "weight") -> bool:
    """Say whether an argument of a layer is a parameter as it is stored."""
    return _is_parameter(graph, argument(layer, name))


def _is_parameter(graph: Graph, value: object) -> bool:
    return reads_tensor(value) and isinstance(find(graph.module, str(value.target)), nn.Parameter)  # type: ignore[attr-defined]


def layer_weights(graph: Graph, dense: Collection[str], where: str) -> dict[str, Node]:
    """Return the layers by the names of their weights, without those that a dense one reads.

    Args:
        graph: any.
        dense: names of nodes; one of those that share a weight keeps it as it is for all.
        where: for messages.

    Raises:
        SettingError: a dense node does not exist.
    """
    check_nodes(graph, "dense", dense, where)
    read = [(str(argument(layer, "weight").target), layer) for layer in learned_layers(graph)]
    whole = {name for name, layer in read if layer.name in dense}
    return {name: layer for name, layer in read if name not in whole}


def no_weights(graph: Graph, where: str, remedy: str) -> SettingError:
    """Return the error that no layer has a weight to work on; a quantized one is none that can be changed.

    Args:
        graph: any.
        where: the pass.
        remedy: where nothing is quantized.
    """
    if any(node.target is QUANTIZER for node in graph.module.graph.nodes):
        return SettingError("the weights are quantized already", where=where, remedy=f"put {where} before that")
    return SettingError("there is no weight to work on", where=where, remedy=remedy)


def bias_of(layer: Node) -> Node | None:
    """Return what a layer adds, None where it adds nothing."""
    known = MATRICES.get(layer.target)  # type: ignore[arg-type]
    return None if known is not None and "bias" not in known else argument(layer, "bias")


def transposed_groups(layer: Node) -> int:
    """Return the groups of a layer whose weight has its inputs in front: of a transposed convolution, 1 of a product
    with a matrix; 0 for every other layer.
    """
    if layer.target in TRANSPOSED:
        return argument(layer, "groups")
    return 1 if layer.target in MATRICES else 0


def _weight_of(graph: Graph, layer: Node) -> Tensor:
    return find(graph.module, str(argument(layer, "weight").target))


def filters(weight: Tensor, transposed: int = 0) -> Tensor:
    """Return a weight as `[outputs, what each reads]`.

    Args:
        weight: of a layer.
        transposed: see `transposed_groups`.
    """
    if not transposed:
        return weight.flatten(1)
    grouped = weight.reshape(transposed, -1, weight.shape[1], math.prod(weight.shape[2:]))
    return grouped.transpose(1, 2).reshape(transposed * weight.shape[1], -1)


def spread_evenly(scores: Tensor, weight: Tensor, transposed: int = 0) -> Tensor:
    """Give each element of a weight an even part of what its filter scores.

    Args:
        scores: one an output.
        weight: in whose shape they are returned.
        transposed: see `transposed_groups`.
    """
    each = scores.to(weight.device) * (len(scores) / weight.numel())
    if transposed:
        grouped = each.reshape(transposed, 1, weight.shape[1])
        each = grouped.expand(transposed, len(weight) // transposed, -1).reshape(weight.shape[:2])
    return each.reshape(*each.shape, *[1] * (weight.ndim - each.ndim)).expand(weight.shape).contiguous()

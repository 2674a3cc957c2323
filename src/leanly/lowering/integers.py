"""Weights and biases stored as the integers that the kernels read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from leanly.graph import Graph
from leanly.graph.tensors import find, put, read_attr
from leanly.quantize.placement import root

aten = torch.ops.aten
FAKE = torch.ops.leanly.fake_quantize.default
BIASED = frozenset({
    aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, aten.linear.default,
})  # fmt: skip
BIAS_LIMIT = 2**30
"""A bias whose int32 form would pass this stays float: its weights' channel is (almost) empty."""


def store_integers(graph: Graph, *, biases: bool) -> tuple[Graph, dict[str, tuple[int, int]]]:
    """Return a graph whose quantized weights are integer tensors, with (bits, elements) of each stored tensor.

    Args:
        graph: quantized or not.
        biases: also biases, as int32, where the kernel adds them before it scales (ONNX Runtime).
    """
    graph = graph.clone()
    graph.eval()
    module = graph.module
    bits: dict[str, tuple[int, int]] = {}
    for node in list(module.graph.nodes):
        if node.target is FAKE and isinstance(node.args[0], Node) and node.args[0].op == "get_attr":
            _store_weight(graph, node, bits)
    for node in list(module.graph.nodes):
        if biases and node.target in BIASED:
            _store_bias(graph, node, bits)
    module.graph.eliminate_dead_code()
    module.recompile()
    for node in module.graph.nodes:
        if node.op == "get_attr" and not str(node.target).startswith("quantizers."):
            tensor = find(module, str(node.target))
            bits.setdefault(str(node.target), (tensor.element_size() * 8, tensor.numel()))
    return graph, bits


def _quantizer(module: torch.fx.GraphModule, node: Node) -> tuple[Tensor, Tensor, int, int, int]:
    scale, shift = (find(module, str(entry.target)) for entry in node.args[1:3])  # type: ignore[union-attr]
    axis, low, high = node.args[3:6]
    return scale, shift, axis, low, high  # type: ignore[return-value]


def _store_weight(graph: Graph, node: Node, bits: dict[str, tuple[int, int]]) -> None:
    module = graph.module
    scale, shift, axis, low, high = _quantizer(module, node)
    source = node.args[0]
    assert isinstance(source, Node)
    weight = find(module, str(source.target)).detach()
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)] if axis >= 0 else []
    integers = (torch.round(weight * scale.reshape(shape)) + shift.reshape(shape)).clamp(low, high)
    name = f"{source.target}_int"
    put(module, name, integers.to(torch.int8 if low < 0 else torch.uint8))
    bits[name] = (8, integers.numel())
    _replace(graph, node, name, node.args[1], node.args[2], axis)


def _store_bias(graph: Graph, node: Node, bits: dict[str, tuple[int, int]]) -> None:
    """int32 bias with the scale of the products: what integer convolutions add."""
    if len(node.args) < 3 or not isinstance(node.args[2], Node) or node.args[2].op != "get_attr":
        return
    data, weight = node.args[0], node.args[1]
    if not (isinstance(data, Node) and isinstance(weight, Node)):
        return
    source = root(data)
    if source.target is not FAKE or weight.target is not torch.ops.leanly.dequantize.default:
        return
    module = graph.module
    data_scale = _quantizer(module, source)[0]
    weight_scale = find(module, str(weight.args[1].target))  # type: ignore[union-attr]
    scale = (data_scale * weight_scale).expand(find(module, str(node.args[2].target)).shape).clone()
    name = str(node.args[2].target)
    integers = torch.round(find(module, name).detach().double() * scale.double())
    if integers.numel() == 0 or float(integers.abs().max()) > BIAS_LIMIT:
        return
    stored = f"{name}_int_{node.name}"
    put(module, stored, integers.to(torch.int32))
    put(module, f"quantizers.{node.name}_bias.scale", scale)
    put(module, f"quantizers.{node.name}_bias.shift", torch.zeros_like(scale))
    bits[stored] = (32, integers.numel())
    with module.graph.inserting_before(node):
        scale_node = read_attr(module, f"quantizers.{node.name}_bias.scale")
        shift_node = read_attr(module, f"quantizers.{node.name}_bias.shift")
        value = read_attr(module, stored)
        new = module.graph.call_function(
            torch.ops.leanly.dequantize.default, (value, scale_node, shift_node, 0)
        )
    node.args = (*node.args[:2], new, *node.args[3:])


def _replace(graph: Graph, node: Node, name: str, scale: object, shift: object, axis: int) -> None:
    module = graph.module
    with module.graph.inserting_before(node):
        value = read_attr(module, name)
        new = module.graph.call_function(torch.ops.leanly.dequantize.default, (value, scale, shift, axis))  # type: ignore[arg-type]
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)

"""One-bit layers as runtimes read them: signs in bytes for integer kernels, or eight to a byte for leanly's own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from leanly.graph import Graph
from leanly.graph import packed as _packed  # noqa: F401  (registers the operators named below)
from leanly.graph.binarizer import split_weight
from leanly.graph.layers import window_of
from leanly.graph.nodes import argument
from leanly.graph.tensors import find, put, read_attr
from leanly.packing import pack
from leanly.quantize.binary import OF_WEIGHT, is_binarized
from leanly.target import Target

aten = torch.ops.aten
DEQUANTIZE = torch.ops.leanly.dequantize.default
LINEAR = aten.linear.default
LAYERS = (aten.conv2d.default, aten.conv2d.padding, LINEAR)
LEAST_CHANNELS, LEAST_COLUMNS, LEAST_COLUMNS_VNNI = 64, 512, 2048
"""Inputs of a convolution and of a linear layer from which on the kernel of signs is the faster one, as
`bench.quantize` measures it; narrower layers run as bytes, which VNNI multiplies far faster."""
LEAST = 1e-12
"""A channel of zeros has a scale of zero, whose reciprocal no file could hold."""


def store_signs(module: GraphModule, bits: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Put the signs of one-bit weights into int8 tensors, a scale a channel beside them; return which take a bit each.

    Args:
        module: is changed in place.
        bits: gets the bits and elements of what is stored.
    """
    widths = {}
    for node in [node for node in module.graph.nodes if node.target is OF_WEIGHT]:
        name = str(argument(node, "weight").target)
        sign, scale = split_weight(find(module, name).detach())
        put(module, f"{name}_int", sign.to(torch.int8))
        put(module, f"quantizers.{name}.scale", 1 / scale.clamp(min=LEAST))
        put(module, f"quantizers.{name}.shift", torch.zeros_like(scale))
        bits[f"{name}_int"] = (8, sign.numel())
        widths[f"{name}_int"] = 1
        with module.graph.inserting_before(node):
            reads = tuple(
                read_attr(module, part)
                for part in (f"{name}_int", *(f"quantizers.{name}.{s}" for s in ("scale", "shift")))
            )
            new = module.graph.call_function(DEQUANTIZE, (*reads, 0))
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)
    return widths


def pack_layers(graph: Graph, bits: dict[str, tuple[int, int]]) -> None:
    """Let the kernel of signs do the layers that multiply signs with signs, where it is the faster one; in place.

    Args:
        graph: is changed in place.
        bits: gets the bits and elements of what is stored.
    """
    for layer in kernel_layers(graph):
        _pack(graph.module, layer, bits)
    graph.module.graph.eliminate_dead_code()


def kernel_layers(graph: Graph) -> list[Node]:
    """Return the layers that the kernel of signs is offered for: convolutions of images and linear layers."""
    return [node for node in graph.module.graph.nodes if node.target in LAYERS and _suits(graph.module, node)]


def least_columns() -> int:
    """Return the inputs from which on a linear layer is multiplied by the kernel of signs on this machine."""
    return LEAST_COLUMNS_VNNI if Target("cpu").vnni else LEAST_COLUMNS


def _suits(module: GraphModule, layer: Node) -> bool:
    if not is_binarized(layer) or (layer.target is not LINEAR and argument(layer, "groups") != 1):
        return False
    least = least_columns() if layer.target is LINEAR else LEAST_CHANNELS
    return find(module, str(argument(argument(layer, "weight"), "weight").target)).shape[1] >= least


def _pack(module: GraphModule, layer: Node, bits: dict[str, tuple[int, int]]) -> None:
    given, weight, bias = (argument(layer, name) for name in ("input", "weight", "bias"))
    name = str(argument(weight, "weight").target)
    values = find(module, name).detach()
    sign, scale = split_weight(values)
    step = find(module, str(argument(given, "scale").target)).detach()
    offset = torch.zeros_like(scale) if bias is None else find(module, str(bias.target)).detach()
    tensors = {"packed": pack_signs(sign), "factor": scale * step, "offset": offset}
    for part, tensor in tensors.items():
        put(module, f"{name}_{part}_{layer.name}", tensor)
    bits[f"{name}_packed_{layer.name}"] = (8, tensors["packed"].numel())
    with module.graph.inserting_before(layer):
        reads = [read_attr(module, f"{name}_{part}_{layer.name}") for part in tensors]
        values_read = (argument(given, "x"), argument(given, "threshold"), *reads)
        if layer.target is LINEAR:
            new = module.graph.call_function(torch.ops.leanly.binary_linear.default, values_read)
        else:
            kernel = list(values.shape[2:])
            window = window_of(layer, kernel)
            pads = [*window.before, *window.after]
            geometry = (kernel, list(window.stride), pads, list(window.dilation))
            new = module.graph.call_function(torch.ops.leanly.binary_convolution.default, (*values_read, *geometry))
    new.meta = dict(layer.meta)
    layer.replace_all_uses_with(new)
    module.graph.erase_node(layer)


def pack_signs(sign: Tensor) -> Tensor:
    """Return filters of signs `[filters, channels, height, width]` as bytes `[filters, height * width, bytes]`.

    Those of a linear layer, `[filters, channels]`, have one tap. The channels of a tap fill whole bytes, the first in
    the lowest bit; plus is 1, and what is left over 0.
    """
    taps = (sign > 0).reshape(*sign.shape[:2], -1).transpose(1, 2)
    return torch.from_numpy(pack(taps.to(torch.uint8).contiguous().numpy(), 1))

"""The quantizers that stand in a graph: finding them, reading them, writing them."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.nodes import argument, argument_names
from leanly.graph.quantizer import QUANTIZER, of_weight
from leanly.graph.tensors import dtype_name, find, put, read_attr
from leanly.quantize.affine import Affine


def is_quantizer(node: Node) -> bool:
    """Say whether a node is a quantizer."""
    return node.target is QUANTIZER


def layers_of(quantizer: Node) -> list[Node]:
    """Return the layers whose weight a quantizer rounds: none where it is another parameter's, as one that is added."""
    readers = [user for user in quantizer.users if hasattr(user.target, "_schema")]
    return [user for user in readers if "weight" in argument_names(user) and argument(user, "weight") is quantizer]


def of_layer(node: Node) -> bool:
    """Say whether a node is a quantizer of a layer's weight."""
    return of_weight(node) and bool(layers_of(node))


def quantizes_values(graph: Graph) -> bool:
    """Say whether anything but parameters is quantized."""
    return any(is_quantizer(node) and not of_weight(node) for node in graph.module.graph.nodes)


def check_quantizable(graph: Graph, where: str) -> None:
    """Raise a SettingError where something else than a graph was given, or its weights are no float32."""
    check_graph(graph, where)
    check_float_weights(graph, where)
    for name, parameter in graph.module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise SettingError(
                f"weight {name} is {dtype_name(parameter)}: integers are made of float32",
                where=where,
                remedy="capture model.float() with an example in float32",
            )


def check_float_outputs(graph: Graph, where: str) -> None:
    """Raise a SettingError where no output holds floats, so that nothing tells how far a change moves them."""
    if not any(spec.dtype in ("float32", "bfloat16", "float16", "float64") for spec in graph.outputs):
        raise SettingError(
            f"the outputs {', '.join(spec.name for spec in graph.outputs)} are no floats: nothing tells how far a "
            "rounding moves them",
            where=where,
            remedy="capture a model that returns its logits, too",
        )


def check_float_weights(graph: Graph, where: str) -> None:
    """Raise a SettingError where weights are quantized already, or there are none in a layer."""
    for name, parameter in graph.module.named_parameters():
        if not parameter.numel():
            raise SettingError(
                f"{name} of shape {tuple(parameter.shape)} holds no weights",
                where=where,
                remedy="take the layer out of the model",
            )
    for node in graph.module.graph.nodes:
        if of_weight(node):
            raise SettingError(
                f"{argument(node, 'x').target} is quantized already",
                where=where,
                remedy="start from the float graph, as leanly.capture gave it",
            )


def weight_quantizers(graph: Graph, asked_by: str) -> dict[str, Node]:
    """Return the quantizers of layers' weights by the names of the parameters, in order.

    Raises:
        SettingError: there are none.
    """
    found = {str(argument(node, "x").target): node for node in graph.module.graph.nodes if of_layer(node)}
    if not found:
        raise SettingError(
            "the graph has no quantized weights", where=asked_by, remedy="put quantize.Static before it in the recipe"
        )
    return found


def rounded_weight(module: GraphModule, layer: Node) -> Tensor:
    """Return the parameter that a layer multiplies with once it is rounded."""
    return find(module, str(argument(argument(layer, "weight"), "x").target))


def read_affine(module: GraphModule, node: Node) -> Affine:
    """Return the integers that a quantizer rounds to."""
    scale, shift = (find(module, str(argument(node, name).target)).detach() for name in ("scale", "shift"))
    return Affine(scale, torch.round(shift), argument(node, "low"), argument(node, "high"), argument(node, "axis"))


def write_scale(module: GraphModule, node: Node, scale: Tensor) -> None:
    """Give a quantizer another scale."""
    with torch.no_grad():
        find(module, str(argument(node, "scale").target)).copy_(scale)


def write_weight(module: GraphModule, node: Node, values: Tensor) -> None:
    """Give the parameter behind a quantizer other values."""
    with torch.no_grad():
        find(module, str(argument(node, "x").target)).copy_(values)


def add_quantizer(graph: Graph, value: Node, affine: Affine, readers: Collection[Node] | None = None) -> Node:
    """Put a quantizer behind a node.

    Args:
        graph: holds the node.
        value: what is quantized.
        affine: to which integers.
        readers: who read the quantized value; all that read the node where None.
    """
    module = graph.module
    own = f"{value.name}_value" if hasattr(nn.Module(), value.name) else value.name  # no submodule can be called `to`
    name = f"quantizers.{own}" if readers is None else f"quantizers.{next(iter(readers)).name}_input"
    put(module, f"{name}.scale", affine.scale)
    put(module, f"{name}.shift", affine.shift)
    with module.graph.inserting_after(value):
        scale = read_attr(module, f"{name}.scale")
    with module.graph.inserting_after(scale):
        shift = read_attr(module, f"{name}.shift")
    with module.graph.inserting_after(shift):
        node = module.graph.call_function(QUANTIZER, (value, scale, shift, affine.axis, affine.low, affine.high))
    node.meta = dict(value.meta)
    value.replace_all_uses_with(
        node, delete_user_cb=lambda user: user is not node and (readers is None or user in readers)
    )
    return node

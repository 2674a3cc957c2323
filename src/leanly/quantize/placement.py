"""Where quantizers stand: on the values with which a target's integer kernels start and end.

Both runtimes want integers on both sides of a residual add: ONNX Runtime's add is a kernel of its own, and OpenVINO
adds inside the convolution only where the other side is still integer. ONNX Runtime's convolutions are integer only
where their output is rounded as well; OpenVINO's may end in float.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Node

from leanly.graph.computed import is_constant
from leanly.graph.layers import CONVOLUTIONS
from leanly.graph.nodes import argument, first_argument, reads_tensor

KERNELS = ("onnxruntime", "openvino")
"""Runtimes whose integer kernels are known."""

aten = torch.ops.aten
WEIGHTED = CONVOLUTIONS | {aten.linear.default}
PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default})
SUMS = frozenset({aten.add.Tensor})
MERGES = frozenset({aten.cat.default})
AVERAGES = frozenset({aten.adaptive_avg_pool2d.default, aten.mean.dim, aten.avg_pool2d.default})
MOVES = frozenset({
    aten.max_pool2d.default, aten.reshape.default, aten.view.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.transpose.int, aten.permute.default, aten.contiguous.default, aten.unsqueeze.default, aten.squeeze.dim,
    aten.slice.Tensor, aten.select.int, aten.expand.default, aten.clone.default, aten.detach.default,
    aten.dropout.default, aten.relu.default, aten.pad.default, aten.constant_pad_nd.default, aten.alias.default,
})  # fmt: skip
"""Operators that give back values they were given (or zero, but for `_fills`): a quantizer before them serves after
them as well."""
UNCHANGING = MOVES - {aten.relu.default}
"""Those that give back all values as they were."""
PADS = frozenset({aten.pad.default, aten.constant_pad_nd.default})
STOPS = frozenset({aten.select.int, aten.expand.default})
"""Those of them behind which ONNX Runtime takes up integers only where a quantizer stands again."""
CLAMPS = frozenset({aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default})
"""Activations that an integer kernel applies by clamping."""


@dataclass(frozen=True)
class Placement:
    """Which nodes' outputs get an activation quantizer, and which nodes' weights get one."""

    activations: dict[str, str]
    """Name of the node behind which a quantizer stands -> name of the node whose values give its range."""
    weights: tuple[str, ...]
    products: tuple[str, ...] = ()
    """Names of the nodes that multiply two activations."""


def place(graph: torch.fx.Graph, *, kernels: str, float_nodes: Iterable[str] = (), products: bool = True) -> Placement:
    """Choose the values to quantize.

    Args:
        graph: nodes in order; batch norm folded and attention expanded before.
        kernels: "onnxruntime" or "openvino", whose integer kernels are meant.
        float_nodes: names of nodes that stay in float.
        products: also the products of two activations (attention).
    """
    left = frozenset(float_nodes)
    integer = [node for node in graph.nodes if node.name not in left and _is_integer(node, products)]
    chosen: dict[str, str] = {}
    for node in integer:
        for value in _activations(node):
            source = root(value)
            chosen[source.name] = source.name
            if kernels == "onnxruntime" and (node.target in SUMS | MERGES or root(value, UNCHANGING - STOPS) != source):
                chosen.setdefault(value.name, source.name)
    if kernels == "onnxruntime":
        for node in integer:
            if node.target in CONVOLUTIONS | SUMS | MERGES | AVERAGES:
                end = after_clamp(node).name
                chosen[end] = end
    weights = tuple(node.name for node in integer if node.target in WEIGHTED)
    multiplied = tuple(node.name for node in integer if node.target in PRODUCTS)
    return Placement({node.name: chosen[node.name] for node in graph.nodes if node.name in chosen}, weights, multiplied)


def _is_integer(node: Node, products: bool) -> bool:
    if node.target in WEIGHTED:
        return reads_tensor(argument(node, "weight")) and not is_constant(argument(node, "input"))
    if node.target in PRODUCTS:
        return products
    if node.target in SUMS:
        return len(_activations(node)) == 2 and any(_comes_from_convolution(value) for value in _activations(node))
    if node.target in MERGES | AVERAGES:
        return any(_comes_from_convolution(value) for value in _activations(node))
    return False


def _activations(node: Node) -> list[Node]:
    """The data inputs of a node: not its weights, not constants."""
    if node.target in MERGES:
        return list(node.args[0])  # type: ignore[arg-type]
    if node.target in SUMS:
        return [value for value in node.args[:2] if isinstance(value, Node) and not is_constant(value)]
    count = 2 if node.target in PRODUCTS else 1
    return [value for value in node.args[:count] if isinstance(value, Node) and value.op != "get_attr"]


def _comes_from_convolution(value: Node) -> bool:
    seen = root(value, through=MOVES | CLAMPS | AVERAGES)
    if seen.target in SUMS | MERGES:
        return any(_comes_from_convolution(entry) for entry in _activations(seen))
    return seen.target in CONVOLUTIONS


def root(value: Node, through: frozenset[object] = UNCHANGING) -> Node:
    """Walk back over operators that only move values, to the node that computed them, or filled them in."""
    while value.op == "call_function" and value.target in through and not _fills(value):
        before = first_argument(value)
        if not isinstance(before, Node) or _fills(before):  # -inf is no end of a range, and pooling takes it away
            break
        value = before
    return value


def _fills(node: Node) -> bool:
    """Say whether a node pads with anything but zero."""
    return node.target in PADS and bool(argument(node, "value"))


def readers(value: Node) -> list[tuple[Node, Node]]:
    """Return who computes with a value, each with the node that it reads: the value, or what only moved it."""
    found: list[tuple[Node, Node]] = []
    for user in value.users:
        found += readers(user) if user.target in UNCHANGING and not _fills(user) else [(user, value)]
    return found


def after_clamp(node: Node) -> Node:
    """Return the activation that the node's kernel applies by clamping, or the node itself."""
    readers = list(node.users)
    if len(readers) == 1 and readers[0].target in CLAMPS:
        return readers[0]
    return node

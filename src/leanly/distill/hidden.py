"""Hidden values: what a student computes on the way, and what of its teacher that should be like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from leanly.graph import Graph
from leanly.graph.nodes import argument, argument_names
from leanly.graph.segments import find_segments
from leanly.graph.tensors import find

aten = torch.ops.aten
CHANNELS: dict[object, tuple[int, int]] = {
    aten.conv1d.default: (1, 1),
    aten.conv2d.default: (1, 1),
    aten.conv1d.padding: (1, 1),
    aten.conv2d.padding: (1, 1),
    aten.linear.default: (-1, 1),
    aten.batch_norm.default: (1, 0),
    aten.layer_norm.default: (-1, 0),
}
"""Layers -> dimension of the channels in what they read, and in their weight."""


@dataclass(frozen=True)
class Pair:
    """Two values that belong together.

    Args:
        student, teacher: names of the nodes that give them.
        dimension: of the channels.
        channels: which of the teacher's the student has; None for all.
    """

    student: str
    teacher: str
    dimension: int
    channels: Tensor | None

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the squared error as a share of the teacher's power."""
        if self.channels is not None:
            teacher = teacher.index_select(self.dimension, self.channels.to(teacher.device))
        return (student - teacher).square().mean() / teacher.square().mean().clamp(min=1e-12)


def hidden_pairs(student: Graph, teacher: Graph) -> tuple[Pair, ...]:
    """Pair what every path of the student passes with what the same layer of the teacher reads.

    A student that was cut out of its teacher has layers of the same names; `kept` tells which channels they still read.

    Args:
        student: any graph.
        teacher: any graph; where no layer bears the same name, or shapes differ for another reason, there is no pair.
    """
    weighted = _is_weighted(student)
    segments = find_segments(student, starts=weighted, counts=weighted)
    ours = {node.name: node for node in student.module.graph.nodes}
    theirs = {node.name: node for node in teacher.module.graph.nodes}
    shapes, wanted = student.shapes(2), teacher.shapes(2)
    found = []
    for segment in segments:
        if not segment.entry:
            continue
        for layer in ours[segment.entry].users:
            pair = _pair(student, ours[segment.entry], layer, theirs.get(layer.name))
            if pair is not None and _fit(shapes[pair.student], wanted.get(pair.teacher), pair):
                found.append(pair)
                break
    return tuple(found)


def _is_weighted(graph: Graph) -> Callable[[Node], bool]:
    module = graph.module

    def is_weighted(node: Node) -> bool:
        return node.op == "call_function" and any(_is_matrix(module, source) for source in node.all_input_nodes)

    return is_weighted


def _is_matrix(module: GraphModule, node: Node) -> bool:
    """Say whether a node is a parameter of two dimensions or more, or its quantizer."""
    if node.op == "call_function" and node.all_input_nodes:
        return all(source.op == "get_attr" for source in node.all_input_nodes) and _is_matrix(
            module, node.all_input_nodes[0]
        )
    if node.op != "get_attr":
        return False
    tensor = find(module, str(node.target))
    return isinstance(tensor, nn.Parameter) and tensor.ndim > 1


def _pair(student: Graph, value: Node, layer: Node, twin: Node | None) -> Pair | None:
    if twin is None or twin.target is not layer.target or layer.target not in CHANNELS:
        return None
    if argument(layer, "input") is not value or not isinstance(argument(twin, "input"), Node):
        return None
    if "groups" in argument_names(layer) and argument(layer, "groups") != 1:
        return None
    dimension, of_weight = CHANNELS[layer.target]
    kept = student.kept.get(_weight_name(layer))
    return Pair(value.name, argument(twin, "input").name, dimension, kept[of_weight] if kept else None)


def _weight_name(layer: Node) -> str:
    weight = argument(layer, "weight")
    if isinstance(weight, Node) and weight.op == "call_function":
        weight = weight.args[0]
    return str(weight.target) if isinstance(weight, Node) else ""


def _fit(ours: tuple[int, ...], theirs: tuple[int, ...] | None, pair: Pair) -> bool:
    if theirs is None or len(ours) != len(theirs):
        return False
    shape = list(theirs)
    if pair.channels is not None:
        if pair.channels.numel() and int(pair.channels.max()) >= shape[pair.dimension]:
            return False
        shape[pair.dimension] = pair.channels.numel()
    return list(ours) == shape

"""MACs, parameters and bytes of every node, from exact shapes.

A MAC is one multiplication of a matrix product: convolution, linear, matmul, attention, recurrence. Normalization,
activation and pooling count none. The figures diagnose; what decides is measured.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from leanly.graph import tensors
from leanly.graph.nodes import argument, argument_names
from leanly.graph.shapes import is_spec, propagate

if TYPE_CHECKING:
    from leanly.graph.graph import Graph

aten = torch.ops.aten
Shape = tuple[int, ...]
Shapes = Callable[[Any], Shape]


@dataclass(frozen=True)
class NodeCost:
    """What one node takes for one batch.

    Args:
        name: the node's name in the graph; `operator`: as "aten.conv2d.default"; `source`: the user's line.
        macs: multiplications of matrix products.
        parameters: elements of what this node is the first to read; `parameter_bytes`: as they are stored.
        activation_bytes: bytes of what it gives back.
        output_shape: of its result, or of the first of several.
    """

    name: str
    operator: str
    source: str
    macs: int
    parameters: int
    parameter_bytes: int
    activation_bytes: int
    output_shape: Shape


@dataclass(frozen=True)
class Cost:
    """What a graph takes for one batch, node by node in the order they run."""

    batch_size: int
    nodes: tuple[NodeCost, ...]

    @property
    def macs(self) -> int:
        """Multiplications of matrix products in all."""
        return sum(node.macs for node in self.nodes)

    @property
    def parameters(self) -> int:
        """Elements of all parameters that are read, a shared one once."""
        return sum(node.parameters for node in self.nodes)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters that are read, as they are stored."""
        return sum(node.parameter_bytes for node in self.nodes)


def cost(graph: Graph, batch_size: int = 1) -> Cost:
    """Count every node of a graph for a batch size."""
    results = propagate(graph, batch_size)

    def shape(node: Any) -> Shape:
        return results[node.name][0]

    counted: set[int] = set()
    nodes = []
    for node in graph.module.graph.nodes:
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        leaves = _specs(results[node.name])
        if not leaves:  # sizes, not tensors
            continue
        count, stored = _parameters(graph.module, node, counted)
        nodes.append(
            NodeCost(
                name=node.name,
                operator=str(node.target),
                source=graph.source(node),
                macs=macs(node, shape, leaves[0][0]),
                parameters=count,
                parameter_bytes=stored,
                activation_bytes=sum(math.prod(size) * dtype.itemsize for size, dtype in leaves),
                output_shape=leaves[0][0],
            )
        )
    return Cost(batch_size, tuple(nodes))


def macs(node: fx.Node, shape: Shapes, output: Shape) -> int:
    """Count the multiplications of a node, given the shapes of what it reads and of what it gives back."""
    rule = _RULES.get(node.target)
    return rule(node, shape, output) if rule is not None else 0


def _specs(result: Any) -> list[tuple[Shape, torch.dtype]]:
    if is_spec(result):
        return [result]
    return [item for item in result if is_spec(item)] if isinstance(result, tuple | list) else []


def _parameters(module: fx.GraphModule, node: fx.Node, counted: set[int]) -> tuple[int, int]:
    """Count what this node is the first to read: parameters, and the integers that stand for one."""
    count = stored = 0
    for source in node.all_input_nodes:
        if source.op != "get_attr":
            continue
        tensor = tensors.find(module, str(source.target))
        integers = str(node.target) == "leanly.dequantize.default" and source is node.args[0]
        if (isinstance(tensor, nn.Parameter) or integers) and id(tensor) not in counted:
            counted.add(id(tensor))
            count += tensor.numel()
            stored += tensor.numel() * tensor.element_size()
    return count, stored


def _convolution(node: fx.Node, shape: Shapes, output: Shape) -> int:
    """Each output element multiplies one filter: groups show in its shape, stride in the output's."""
    return math.prod(output) * math.prod(shape(argument(node, "weight"))[1:])


def _transposed(node: fx.Node, shape: Shapes, output: Shape) -> int:
    """Each input element multiplies its channel's filters."""
    return math.prod(shape(argument(node, "input"))) * math.prod(shape(argument(node, "weight"))[1:])


def _any_convolution(node: fx.Node, shape: Shapes, output: Shape) -> int:
    return (_transposed if argument(node, "transposed") else _convolution)(node, shape, output)


def _linear(node: fx.Node, shape: Shapes, output: Shape) -> int:
    return math.prod(output) * shape(argument(node, "input"))[-1]


def _product(left: str) -> Callable[[fx.Node, Shapes, Shape], int]:
    """Count a matrix product: every output element sums over the last dimension of the left operand."""

    def rule(node: fx.Node, shape: Shapes, output: Shape) -> int:
        return math.prod(output) * shape(argument(node, left))[-1]

    return rule


def _attention(node: fx.Node, shape: Shapes, output: Shape) -> int:
    """Count scores (length x length x key width) and mix (length x length x value width), for every head."""
    query, key, value = (shape(argument(node, name)) for name in ("query", "key", "value"))
    return math.prod(output[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrence(node: fx.Node, shape: Shapes, output: Shape) -> int:
    """Multiply every weight matrix by every row of every step: layers and directions are all in the matrices."""
    data = shape(argument(node, "input" if "input" in argument_names(node) else "data"))
    weights = [shape(weight) for weight in argument(node, "params")]
    return math.prod(data[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


def _cell(node: fx.Node, shape: Shapes, output: Shape) -> int:
    data = shape(argument(node, "input"))
    return math.prod(data[:-1]) * sum(math.prod(shape(argument(node, name))) for name in ("w_ih", "w_hh"))


def _bilinear(node: fx.Node, shape: Shapes, output: Shape) -> int:
    return math.prod(output) * shape(argument(node, "input1"))[-1] * shape(argument(node, "input2"))[-1]


def _einsum(node: fx.Node, shape: Shapes, output: Shape) -> int:
    """Contract from left to right, as torch does without a path: a step multiplies over all letters of its two."""
    equation, operands = str(node.args[0]).replace(" ", ""), list(node.args[1])  # type: ignore[arg-type, call-overload]
    left, _, right = equation.partition("->")
    sizes: dict[Any, int] = {}
    terms: list[set[Any]] = []
    for term, operand in zip(left.split(","), operands, strict=True):
        dims = shape(operand)
        before, _, after = term.partition("...")
        hidden = len(dims) - len(before) - len(after)
        letters = [*before, *range(-hidden, 0), *after] if "..." in term else list(term)
        for letter, size in zip(letters, dims, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
        terms.append(set(letters))
    if "->" in equation:
        kept: set[Any] = set(right.replace(".", "")) | {letter for letter in sizes if isinstance(letter, int)}
    else:
        kept = {letter for letter in sizes if isinstance(letter, int) or left.count(letter) == 1}
    total, done = 0, terms[0]
    for position, term in enumerate(terms[1:], start=1):
        both = done | term
        total += math.prod(sizes[letter] for letter in both)
        needed = reduce(set.union, terms[position + 1 :], kept)
        done = both & needed
    return total


_RULES: dict[Any, Callable[[fx.Node, Shapes, Shape], int]] = {
    **dict.fromkeys(
        (
            aten.conv1d.default,
            aten.conv2d.default,
            aten.conv3d.default,
            aten.conv1d.padding,
            aten.conv2d.padding,
            aten.conv3d.padding,
        ),
        _convolution,
    ),
    **dict.fromkeys(
        (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input), _transposed
    ),
    aten.convolution.default: _any_convolution,
    aten.linear.default: _linear,
    aten.addmm.default: _product("mat1"),
    aten.addbmm.default: lambda node, shape, output: math.prod(shape(node.args[1])) * output[-1],
    aten.baddbmm.default: _product("batch1"),
    aten.addmv.default: _product("mat"),
    aten.mm.default: _product("self"),
    aten.bmm.default: _product("self"),
    aten.mv.default: _product("self"),
    aten.dot.default: _product("self"),
    aten.matmul.default: _product("self"),
    aten.scaled_dot_product_attention.default: _attention,
    **dict.fromkeys(
        (
            aten.lstm.input,
            aten.lstm.data,
            aten.gru.input,
            aten.gru.data,
            aten.rnn_tanh.input,
            aten.rnn_tanh.data,
            aten.rnn_relu.input,
            aten.rnn_relu.data,
        ),
        _recurrence,
    ),
    **dict.fromkeys(
        (aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default, aten.rnn_relu_cell.default), _cell
    ),
    aten.bilinear.default: _bilinear,
    aten.einsum.default: _einsum,
}

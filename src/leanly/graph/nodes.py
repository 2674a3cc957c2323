"""Reading and writing the arguments of fx nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten
MATRICES: dict[Any, dict[str, str]] = {
    aten.addmm.default: {"input": "mat1", "weight": "mat2", "bias": "self"},
    aten.mm.default: {"input": "self", "weight": "mat2"},
    aten.matmul.default: {"input": "self", "weight": "other"},
}
"""Products of matrices, with their arguments by the names that those of a linear layer have."""


def argument_names(node: Node) -> list[str]:
    """List the arguments that the schema of a node's operator declares, in order."""
    return [declared.name for declared in node.target._schema.arguments]  # type: ignore[union-attr]


def argument(node: Node, name: str) -> Any:
    """Read an argument of an ATen node by the name its schema (or `MATRICES`) gives it, defaults included."""
    if name in (known := MATRICES.get(node.target, {})):  # type: ignore[arg-type]
        name = known[name]
    for position, declared in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if declared.name == name:
            if position < len(node.args):
                return node.args[position]
            return node.kwargs.get(name, declared.default_value)
    raise KeyError(f"{node.target} has no argument {name}")


def set_argument(node: Node, name: str, value: Any) -> None:
    """Write an argument of an ATen node by the name its schema gives it."""
    if name in argument_names(node)[: len(node.args)]:
        node.update_arg(argument_names(node).index(name), value)
    else:
        node.update_kwarg(name, value)


def first_argument(node: Node) -> Any:
    """Return what an operator is given first, whatever its schema calls it; None where it is given nothing."""
    return node.args[0] if node.args else None


def reads_tensor(value: Any) -> bool:
    """Say whether a value is a node that reads a parameter or buffer."""
    return isinstance(value, Node) and value.op == "get_attr"


def read_once(node: Node) -> bool:
    """Say whether a node reads a parameter or buffer that one operator alone is given."""
    reads = (other for other in node.graph.nodes if other.op == "get_attr" and other.target == node.target)
    return sum(len(read.users) for read in reads) == 1

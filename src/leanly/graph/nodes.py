"""Reading the arguments of fx nodes."""

from __future__ import annotations

from typing import Any

from torch.fx import Node


def argument(node: Node, position: int, name: str = "", default: Any = None) -> Any:
    """Return an argument by its position or its keyword, or the default where it was not given."""
    if position < len(node.args):
        return node.args[position]
    return node.kwargs.get(name, default) if name else default


def reads_tensor(value: Any) -> bool:
    """Say whether a value is a node that reads a parameter or buffer."""
    return isinstance(value, Node) and value.op == "get_attr"

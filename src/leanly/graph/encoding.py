"""Arguments of nodes as JSON and back: only what is declared here, nothing that runs."""

from __future__ import annotations

import builtins
import math
import operator
from typing import Any

import torch
from torch import Tensor, fx

from leanly.errors import BundleError
from leanly.graph.tensors import dtype_named

_FORBIDDEN = {"from_file", "save", "warn", "_print", "set_", "set_data", "_sparse_resource", "import_ir_module"}
_WRITES = {"copy_"}
"""The one in-place operator of a graph: what is kept in a buffer."""
_MATHS = {"ceil", "floor", "trunc", "sqrt", "pow", "log2"}
_OPERATORS = {
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pow", "getitem", "pos"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"),
}
_TORCH = {"sym_max", "sym_min", "sym_float", "sym_int", "sym_ite", "sym_not", "sym_sqrt", "sym_sum"}
_BUILTINS = {"max", "min", "round", "abs", "int", "float", "bool"}
_LAYOUTS = {str(item): item for item in (torch.strided, torch.sparse_coo)}
_FORMATS = {
    str(item): item
    for item in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d, torch.preserve_format)
}


def encode(value: Any) -> Any:
    """Turn an argument into JSON.

    Raises:
        TypeError: it is nothing that a graph may hold.
    """
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, slice):
        return {"slice": [encode(item) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, torch.memory_format):
        return {"memory_format": str(value)}
    if isinstance(value, torch.layout):
        return {"layout": str(value)}
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    raise TypeError(f"a {type(value).__name__} can't be written down")


def decode(value: Any, nodes: dict[str, fx.Node]) -> Any:
    """Read what `encode` wrote; ValueError or KeyError where it wrote no such thing."""
    if isinstance(value, list):
        return [decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"tensor", "dtype"}:
        return torch.tensor(value["tensor"], dtype=dtype_named(value["dtype"]))
    if len(value) != 1:
        raise ValueError(f"{value!r} is no argument")
    ((kind, content),) = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "float":
        return float(content)
    if kind == "complex":
        return complex(*(decode(item, nodes) for item in content))
    if kind == "tuple":
        return tuple(decode(item, nodes) for item in content)
    if kind == "slice":
        return slice(*(decode(item, nodes) for item in content))
    if kind == "dtype":
        return dtype_named(content)
    if kind == "device":
        return torch.device(content)
    if kind == "memory_format":
        return _FORMATS[content]
    if kind == "layout":
        return _LAYOUTS[content]
    raise ValueError(f"{kind!r} is no kind of argument")


def name_of(target: Any) -> str:
    """Write down what a node calls: "aten.conv2d.default", "operator.add"; TypeError where a graph may not hold it."""
    if isinstance(target, torch._ops.OpOverload):
        name = str(target)
    else:
        module = {"_operator": "operator", "builtins": "builtins", "math": "math"}.get(
            getattr(target, "__module__", ""), "torch"
        )
        name = f"{module}.{getattr(target, '__name__', target)}"
    try:
        found = target_named(name, "graph")
    except BundleError as error:
        raise TypeError(error.what) from error
    if found is not target:
        raise TypeError(f"{name} is another function than the one in the graph")
    return name


def target_named(name: str, where: str) -> Any:
    """Find what a name calls, among the operators that a graph may hold.

    Raises:
        BundleError: it is none of them (reads or writes files, is not ATen's or ours, does not exist).
    """
    parts = name.split(".")
    found: Any = None
    if len(parts) == 2:
        room, function = parts
        allowed = {
            "operator": (operator, _OPERATORS),
            "math": (math, _MATHS),
            "torch": (torch, _TORCH),
            "builtins": (builtins, _BUILTINS),
        }.get(room)
        if allowed is not None and function in allowed[1]:
            found = getattr(allowed[0], function, None)
    if len(parts) == 3 and parts[0] in ("aten", "leanly"):
        from leanly.graph import binarizer, packed, quantizer  # noqa: F401  the operators of ours

        packet = getattr(getattr(torch.ops, parts[0]), parts[1], None)
        found = getattr(packet, parts[2], None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
        known = isinstance(found, torch._ops.OpOverload) and parts[1] not in _FORBIDDEN
        if not known or (found._schema.is_mutable and parts[1] not in _WRITES):
            found = None
    if found is None:
        raise BundleError(
            f"the graph asks for {name!r}, which is no operator a graph may hold",
            where=where,
            remedy="do not use this folder, or install the leanly that wrote it",
        )
    return found

"""Reading what the user gave as example inputs: names, the batch, the dimensions that vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leanly.arguments import leaf_names, positional_names
from leanly.errors import CaptureError
from leanly.graph.tensors import dtype_name
from leanly.scalars import names_of
from leanly.structure import Structure, TensorSpec, build, flatten, is_tensor

ROWS = 4
"""Rows of the example that are kept: enough for a check, few enough to be kept along."""


@dataclass(frozen=True)
class Example:
    """Flat example inputs with at least two rows, their specs, and the structure of the call."""

    tensors: tuple[Tensor, ...]
    inputs: tuple[TensorSpec, ...]
    arguments: Structure

    @property
    def rows(self) -> int:
        """Rows of the example."""
        return next(
            tensor.shape[0]
            for spec, tensor in zip(self.inputs, self.tensors, strict=True)
            if spec.shape and spec.shape[0] == "batch"
        )

    @property
    def shift(self) -> int:
        """By how much other dimensions are varied: one shorter, since a longer one may leave a table of positions."""
        sizes = [
            tensor.shape[position]
            for spec, tensor in zip(self.inputs, self.tensors, strict=True)
            for position, size in enumerate(spec.shape)
            if isinstance(size, str) and size != "batch"
        ]
        return (-1 if min(sizes) > 2 else 1) if sizes else 0

    def sized(self, rows: int, shift: int = 0, label: str = "") -> tuple[Tensor, ...]:
        """Return the example with `rows` rows and other varying dimensions (`label`'s, if given) longer by `shift`."""
        result = []
        for spec, tensor in zip(self.inputs, self.tensors, strict=True):
            for position, size in enumerate(spec.shape):
                if not isinstance(size, str):
                    continue
                wanted = tensor.shape[position] + (shift if label in ("", size) else 0)
                if size == "batch":
                    wanted = rows
                index = torch.arange(wanted, device=tensor.device) % tensor.shape[position]
                tensor = tensor.index_select(position, index)
            result.append(tensor)
        return tuple(result)

    def moved(self) -> dict[str, tuple[Tensor, ...]]:
        """Return, for each dimension that varies, the example with only that one changed."""
        labels = dict.fromkeys(size for spec in self.inputs for size in spec.shape if isinstance(size, str))
        return {
            label: self.sized(self.rows + 1) if label == "batch" else self.sized(self.rows, self.shift, label)
            for label in labels
        }


def read_example(
    forward: Callable[..., Any],
    example: Any,
    dynamic: Mapping[str, Mapping[int, str]] | None,
    static: tuple[str, ...],
) -> Example:
    """Turn a tensor, a tuple or a dict of keyword inputs into an `Example`.

    Raises:
        CaptureError: no tensor in it, an empty batch, different batch sizes, or a name that no input has.
    """
    args, kwargs = _call(example)
    try:
        arguments, leaves = flatten((args, kwargs))
    except TypeError as error:
        raise CaptureError(str(error), where="example", remedy="give tensors in a tuple, list or dict") from error
    if not leaves:
        raise CaptureError(
            "the example holds no tensor", where="example", remedy="give the inputs of one call, batch first"
        )
    names = _identifiers(leaf_names(arguments, positional_names(forward, len(args))))
    tensors = [torch.as_tensor(leaf).detach() for leaf in leaves]
    for name, dims in (dynamic or {}).items():
        if not isinstance(dims, Mapping):
            raise CaptureError(
                f"dynamic[{name!r}] is {dims!r}", where="dynamic", remedy=f'give {{{name!r}: {{1: "length"}}}}'
            )
    dynamic = {name: dict(dims) for name, dims in (dynamic or {}).items()}
    static = names_of(static, name="static", where="capture")
    for name in (*dynamic, *static):
        if name not in names:
            raise CaptureError(
                f"there is no input named {name!r}",
                where="dynamic or static",
                remedy=f"the inputs are {', '.join(names)}",
            )
    shapes = [
        _shape(name, tensor, dynamic.get(name, {}), name in static) for name, tensor in zip(names, tensors, strict=True)
    ]
    batched = [
        (name, tensor.shape[0])
        for name, tensor, shape in zip(names, tensors, shapes, strict=True)
        if shape and shape[0] == "batch"
    ]
    if not batched:
        raise CaptureError(
            "no input has a batch dimension", where="example", remedy="leave at least one input out of static="
        )
    sizes = {rows for _, rows in batched}
    if len(sizes) > 1:
        raise CaptureError(
            f"the inputs have different sizes in dimension 0: {', '.join(f'{name} {rows}' for name, rows in batched)}",
            where="example",
            remedy="dimension 0 is the batch; name inputs that have none in static=",
        )
    rows = sizes.pop()
    if rows == 0:
        raise CaptureError("the example has no rows", where="example", remedy="give at least one row")
    wanted = min(max(rows, 2), ROWS)  # a batch of 1 would be specialised by the exporter
    specs = tuple(
        TensorSpec(name, dtype_name(tensor), shape) for name, tensor, shape in zip(names, tensors, shapes, strict=True)
    )
    result = Example(tuple(tensors), specs, arguments).sized(wanted)
    return Example(tuple(tensor.clone() for tensor in result), specs, arguments)


def _call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if is_tensor(example):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise CaptureError(
        f"the example is a {type(example).__name__}",
        where="example",
        remedy="give a tensor, a tuple of inputs, or a dict of keyword inputs",
    )


def _identifiers(names: list[str]) -> list[str]:
    """Return names that differ and that code can be written with."""
    names = list(names)
    seen: set[str] = set()
    for position, name in enumerate(names):
        name = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in name)
        while name in seen or not name.isidentifier():
            name = f"{name}_{position}" if name and not name[0].isdigit() else f"input_{position}"
        seen.add(name)
        names[position] = name
    return names


def _shape(name: str, tensor: Tensor, dims: dict[int, str], static: bool) -> tuple[int | str, ...]:
    shape: list[int | str] = list(tensor.shape)
    if not static and shape:
        shape[0] = "batch"
    for position, label in dims.items():
        if not (isinstance(position, int) and -len(shape) <= position < len(shape)):
            raise CaptureError(
                f"{name} has {len(shape)} dimensions, not a dimension {position}",
                where=f"dynamic[{name!r}]",
                remedy=f"name one from 1 to {len(shape) - 1}" if len(shape) > 1 else "leave it out",
            )
        position %= len(shape)
        if shape[position] == "batch":
            continue
        if tensor.shape[position] < 2:
            raise CaptureError(
                f"dimension {position} of {name} is to vary, and is {tensor.shape[position]} in the example",
                where=f"dynamic[{name!r}]",
                remedy="give an example where it is 2 or more",
            )
        shape[position] = str(label)
    return tuple(shape)


def call(structure: Structure, leaves: tuple[Tensor, ...] | list[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put flat inputs back into positional and keyword arguments."""
    args, kwargs = build(structure, leaves)
    return args, kwargs

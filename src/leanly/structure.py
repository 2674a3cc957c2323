"""The shape of nested inputs and outputs, as data: which tuple, list or dict holds which leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Structure = Any
"""JSON: an int is a leaf's position, {"tuple": [...]}, {"list": [...]}, {"dict": {...}}, or {"constant": value}."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that goes in or out: its name, dtype ("float32") and shape, a str where a dimension varies."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def takes(self, shape: Sequence[int | str]) -> bool:
        """Say whether a shape has the same dimensions, whatever those that vary are."""
        return len(shape) == len(self.shape) and all(
            isinstance(asked, str) or asked == given for asked, given in zip(self.shape, shape, strict=True)
        )


def misfit(arrays: Sequence[Any], specs: Sequence[TensorSpec]) -> tuple[int, str] | None:
    """Return the position of the first tensor whose shape does not fit, and why; None where all do.

    Args:
        arrays: what goes in, in order.
        specs: what is expected; a dimension of one name has one size in all of them.
    """
    named: dict[str, tuple[int, str]] = {}
    for position, (array, spec) in enumerate(zip(arrays, specs, strict=True)):
        if 0 in array.shape:
            return position, "is empty"
        if array.ndim != len(spec.shape):
            return position, f"has {array.ndim} dimensions, the model takes {len(spec.shape)}"
        for dim, (size, expected) in enumerate(zip(array.shape, spec.shape, strict=True)):
            if isinstance(expected, str):
                seen, where = named.setdefault(expected, (size, spec.name))
                if seen != size:
                    return position, f"has {size} in dimension {dim} ({expected}), {where} has {seen}"
            elif size != expected:
                return position, f"has {size} in dimension {dim}, the model takes {expected}"
    return None


def is_tensor(value: Any) -> bool:
    """Say whether a value is a leaf: a torch tensor, a numpy array or anything else with a shape and a dtype."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def flatten(value: Any) -> tuple[Structure, list[Any]]:
    """Take nested tuples, lists, dicts and dataclasses apart into a structure and its tensor leaves, in order."""
    leaves: list[Any] = []
    return _walk(value, leaves), leaves


def _walk(item: Any, leaves: list[Any]) -> Structure:
    # Not a closure: one that calls itself is a cycle, and would keep every batch alive until the collector runs.
    if is_tensor(item):
        leaves.append(item)
        return len(leaves) - 1
    if isinstance(item, Mapping):
        return {"dict": {str(key): _walk(entry, leaves) for key, entry in item.items()}}
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        return {"dict": {key: _walk(entry, leaves) for key, entry in fields.items()}}
    if isinstance(item, tuple):
        return {"tuple": [_walk(entry, leaves) for entry in item]}
    if isinstance(item, list):
        return {"list": [_walk(entry, leaves) for entry in item]}
    if item is None or isinstance(item, bool | int | float | str):
        return {"constant": item}
    raise TypeError(f"a {type(item).__name__} is neither a tensor nor a tuple, list or dict of tensors")


def build(structure: Structure, leaves: Sequence[Any]) -> Any:
    """Put leaves back into their structure."""
    if isinstance(structure, int):
        return leaves[structure]
    kind, content = next(iter(structure.items()))
    if kind == "dict":
        return {key: build(entry, leaves) for key, entry in content.items()}
    if kind == "tuple":
        return tuple(build(entry, leaves) for entry in content)
    if kind == "list":
        return [build(entry, leaves) for entry in content]
    return content

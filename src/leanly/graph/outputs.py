"""What comes out of a graph: a name, a dtype and a shape for every tensor, found by running other sizes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from leanly.graph import modes, tensors
from leanly.graph.example import Example
from leanly.structure import Structure, TensorSpec


def output_specs(module: fx.GraphModule, returns: Structure, example: Example) -> tuple[TensorSpec, ...]:
    """Name the outputs after their way in the structure, and what varies after the dimension that moves it."""
    twin = copy.deepcopy(module)
    modes.switch(twin, False)
    with torch.no_grad():
        base = twin(*example.tensors)
        moved = {label: twin(*leaves) for label, leaves in example.moved().items()}
    specs = []
    for index, name in enumerate(output_names(returns)):
        shape: list[int | str] = list(base[index].shape)
        for label, results in moved.items():
            for position, size in enumerate(base[index].shape):
                if results[index].shape[position] != size and not isinstance(shape[position], str):
                    shape[position] = label
        specs.append(TensorSpec(name, tensors.dtype_name(base[index]), tuple(shape)))
    return tuple(specs)


def output_names(returns: Structure) -> list[str]:
    """Name each output leaf by its keys and positions; a lone tensor is "output"."""
    found: dict[int, str] = {}

    def walk(structure: Structure, name: str) -> None:
        if isinstance(structure, int):
            found[structure] = name or "output"
            return
        kind, content = next(iter(structure.items()))
        if kind == "dict":
            for key, entry in content.items():
                walk(entry, f"{name}_{key}" if name else str(key))
        elif kind != "constant":
            for position, entry in enumerate(content):
                walk(entry, f"{name}_{position}" if name else f"output_{position}")

    walk(returns, "")
    return [found[position] for position in sorted(found)]


def floats_of(outputs: Sequence[Tensor]) -> Tensor:
    """Return all values of the outputs that are floats, one after the other, in double precision."""
    return torch.cat([output.double().flatten() for output in outputs if output.is_floating_point()])

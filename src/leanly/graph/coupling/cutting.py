"""`remove`: the graph without some units; tensors are sliced, literals follow, and what comes out is checked."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from leanly.graph import tensors
from leanly.graph.coupling.coupling import Coupling
from leanly.graph.coupling.literals import pick, rewrite
from leanly.graph.coupling.proving import prove
from leanly.graph.coupling.sizes import Sizes, Unfit
from leanly.graph.coupling.variables import Array
from leanly.graph.coupling.walking import ROWS
from leanly.graph.coupling.wiring import INDEX, Wiring
from leanly.graph.graph import Graph
from leanly.graph.shapes import is_spec, propagate


def remove(coupling: Coupling, gone: Array) -> Graph:
    """Return the coupling's graph without some classes of indices.

    Args:
        coupling: of the graph, which is not changed.
        gone: for each class whether it leaves; a union of units.

    Raises:
        Unfit: some nodes can't be rewritten for this cut; couple again with them kept whole.
    """
    small = coupling.wiring.graph.clone()
    sizes = Sizes(coupling, gone)
    graph = small.module.graph
    unfit: set[str] = set()
    for node in list(graph.nodes):
        if node.op == "call_function" and node.name in sizes.wiring.values:
            try:
                if node.name in sizes.wiring.made:
                    pick(node, sizes)
                    continue
                rewrite(node, sizes)
                if node.name in sizes.wiring.moved:
                    prove(node, sizes)
            except Unfit as error:
                unfit |= error.nodes
    if unfit:
        raise Unfit(*unfit)
    _cut_tensors(small, sizes)
    graph.lint()
    small.module.recompile()
    _check_shapes(small, sizes)
    if sizes.scaled:
        _check_outputs(coupling.wiring, small)
    return small


def _cut_tensors(small: Graph, sizes: Sizes) -> None:
    """Slice every parameter and buffer, under all its names, and note which indices of the first capture remain."""
    module = small.module
    every = tensors.every(module)
    hidden = tensors.transient(module)
    names = tensors.names_by_tensor(every)
    done: set[int] = set()
    for node in module.graph.nodes:
        if node.op != "get_attr" or node.name not in sizes.wiring.values:
            continue
        tensor = every[str(node.target)]
        stays = [torch.from_numpy(sizes.stays(node.name, dim).nonzero()[0]) for dim in range(tensor.ndim)]
        lost = [len(one) < size for one, size in zip(stays, tensor.shape, strict=True)]
        if id(tensor) in done or not any(lost):
            continue
        done.add(id(tensor))
        smaller = _sliced(tensor, stays)
        for name in names[id(tensor)]:
            tensors.put(module, name, smaller, persistent=name not in hidden)
            if not name.startswith(INDEX):
                small.kept[name] = _composed(small.kept.get(name), stays, lost)


def _sliced(tensor: Tensor, stays: list[Tensor]) -> Tensor:
    with torch.no_grad():
        data = tensor.detach()
        for dim, one in enumerate(stays):
            if len(one) < data.shape[dim]:
                data = data.index_select(dim, one.to(data.device))
    return nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def _composed(before: Any, stays: list[Tensor], lost: list[bool]) -> tuple[Tensor | None, ...]:
    """Say what remains in indices of the first capture, not of the last cut."""
    before = before or (None,) * len(stays)
    return tuple(
        old if not cut else (one if old is None else old[one])
        for old, one, cut in zip(before, stays, lost, strict=True)
    )


def _check_shapes(small: Graph, sizes: Sizes) -> None:
    """Run without data and compare every shape with the one that was foretold."""
    seen: dict[str, Any] = {}
    failed = False
    try:
        propagate(small, ROWS, seen)
    except Exception:  # whatever an operator says of shapes that do not fit
        failed = True
    for node in small.module.graph.nodes:
        if node.op == "call_function" and node.name in sizes.wiring.values:
            if node.name not in seen:
                raise Unfit(node.name)
            found = seen[node.name]
            foretold = [sizes.shape(node.name, output) for output in range(len(sizes.wiring.values[node.name]))]
            if [item[0] for item in ([found] if is_spec(found) else found)] != foretold:
                raise Unfit(node.name)
    if failed:
        raise Unfit(*(node.name for node in small.module.graph.nodes if node.target is torch.ops.aten.sym_size.int))


def _check_outputs(wiring: Wiring, small: Graph) -> None:
    """Compare the shapes of all outputs at another batch size and other lengths: sizes are computed from those."""
    before, after = (_output_shapes(one, wiring.resized()) for one in (wiring.graph, small))
    if before != after:
        raise Unfit(
            *(node.name for node in wiring.graph.module.graph.nodes if node.target is torch.ops.aten.sym_size.int)
        )


def _output_shapes(graph: Graph, leaves: tuple[Tensor, ...]) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(tensor.shape) for tensor in copy.deepcopy(graph.module)(*leaves)]

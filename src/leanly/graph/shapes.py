"""The shape of every node for a batch size, found by running the graph on tensors without data."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_aggregate

if TYPE_CHECKING:
    from leanly.graph.graph import Graph


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, seen: dict[str, Any]) -> None:
        super().__init__(module)
        self.seen = seen
        seen.clear()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.seen[n.name] = map_aggregate(
            result,
            lambda item: (tuple(int(size) for size in item.shape), item.dtype) if isinstance(item, Tensor) else item,
        )
        return result


class _WithoutData(_Recorder):
    """Runs on the meta device, whatever device the graph names."""

    def fetch_attr(self, target: str) -> Any:
        return super().fetch_attr(target).to("meta")

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = map_aggregate(  # type: ignore[assignment, misc]
            (args, kwargs), lambda item: torch.device("meta") if isinstance(item, torch.device) else item
        )
        return super().call_function(target, args, kwargs)


def propagate(graph: Graph, batch_size: int, seen: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return for every node its result with each tensor replaced by (shape, dtype).

    Meta tensors carry no data and are quickest; where an operator has no such form, fake tensors or real rows are run.

    Args:
        batch_size: rows of the example that are run.
        seen: what is filled and returned; where the graph fails, it holds the nodes before that.
    """
    return propagate_on(graph, graph.example_batch(batch_size), seen)


def propagate_on(graph: Graph, batch: tuple[Tensor, ...], seen: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what `propagate` does, for flat inputs of any size."""
    seen = {} if seen is None else seen
    for run in (_run_meta, _run_fake):
        try:
            run(graph, batch, seen)
            return seen
        except Exception:  # an operator without such a form may raise anything
            continue
    with torch.no_grad():
        _Recorder(copy.deepcopy(graph.module), seen).run(*batch)
    return seen


def _run_meta(graph: Graph, batch: tuple[Tensor, ...], seen: dict[str, Any]) -> None:
    with torch.no_grad():
        _WithoutData(_own(graph.module), seen).run(*(tensor.to("meta") for tensor in batch))


def _run_fake(graph: Graph, batch: tuple[Tensor, ...], seen: dict[str, Any]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        _Recorder(_own(graph.module), seen).run(*(mode.from_tensor(tensor) for tensor in batch))


def _own(module: fx.GraphModule) -> fx.GraphModule:
    """Return a module of its own: a second owner of one fx graph would take it over."""
    return fx.GraphModule(module, copy.deepcopy(module.graph))


def is_spec(item: Any) -> bool:
    """Say whether an entry of `propagate` is one tensor."""
    return (
        isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], tuple) and isinstance(item[1], torch.dtype)
    )


def shapes(graph: Graph, batch_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every node that is one tensor."""
    return {name: item[0] for name, item in propagate(graph, batch_size).items() if is_spec(item)}


def bytes_a_row(graph: Graph) -> dict[str, int]:
    """Return by how many bytes every node that is one tensor grows with a row."""
    one, two = ({name: item for name, item in propagate(graph, rows).items() if is_spec(item)} for rows in (1, 2))
    return {
        name: (math.prod(two[name][0]) - math.prod(shape)) * dtype.itemsize
        for name, (shape, dtype) in one.items()
        if name in two
    }

"""The shape of every node for a batch size, found by running the graph on tensors without data."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_aggregate

if TYPE_CHECKING:
    from leanly.graph.graph import Graph


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.seen[n.name] = map_aggregate(
            result,
            lambda item: (tuple(int(size) for size in item.shape), item.dtype) if isinstance(item, Tensor) else item,
        )
        return result


def propagate(graph: Graph, batch_size: int) -> dict[str, Any]:
    """Return for every node its result with each tensor replaced by (shape, dtype).

    Fake tensors carry no data; where an operator has no fake form, real rows are run instead.
    """
    batch = graph.example_batch(batch_size)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            # a module of its own: a second owner of one fx graph would take it over
            fake = fx.GraphModule(graph.module, copy.deepcopy(graph.module.graph))
            recorder = _Recorder(fake)
            recorder.run(*(mode.from_tensor(tensor) for tensor in batch))
            return recorder.seen
    except Exception:  # an operator without a fake form may raise anything
        recorder = _Recorder(copy.deepcopy(graph.module))
        with torch.no_grad():
            recorder.run(*batch)
        return recorder.seen


def is_spec(item: Any) -> bool:
    """Say whether an entry of `propagate` is one tensor."""
    return (
        isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], tuple) and isinstance(item[1], torch.dtype)
    )


def shapes(graph: Graph, batch_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every node that is one tensor."""
    return {name: item[0] for name, item in propagate(graph, batch_size).items() if is_spec(item)}

"""A graph as a module of PyTorch, for whatever takes one: a task, or a loop of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from leanly.graph.graph import Graph


class GraphModule(nn.Module):
    """Runs a graph; parameters and buffers are the graph's own, under its names.

    Args:
        graph: captured or opened.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        inner = graph.module
        self._parameters, self._buffers, self._modules = inner._parameters, inner._buffers, inner._modules
        self.training = graph.training
        # with the inputs' own names: what reads a module's signature is to see those, not *args
        self.forward = _Forward(graph)

    def train(self, mode: bool = True) -> GraphModule:
        """Switch the graph to training or evaluation."""
        self.graph.train(mode)
        return super().train(mode)


class _Forward:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in _positional(graph)])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._graph(*args, **kwargs)


def _positional(graph: Graph) -> Iterator[str]:
    """Yield the name of each argument that is given by position: the names of its tensors begin with it."""
    args, _ = graph.arguments["tuple"]
    for number, entry in enumerate(args["tuple"]):
        leaf, path = next(_leaves(entry, ""), (-1, ""))
        yield graph.inputs[leaf].name.removesuffix(path) if leaf >= 0 else f"input_{number}"


def _leaves(entry: Any, path: str) -> Iterator[tuple[int, str]]:
    if isinstance(entry, int):
        yield entry, path
        return
    kind, content = next(iter(entry.items()))
    if kind != "constant":
        for key, inner in content.items() if kind == "dict" else enumerate(content):
            yield from _leaves(inner, f"{path}_{key}")

"""A graph that gives values from inside as well, on the very same parameters and buffers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx

from leanly.graph.graph import Graph
from leanly.structure import TensorSpec


class Watched:
    """Runs as a graph does, in the mode that it is in now, and gives the values of some nodes behind the outputs.

    Args:
        graph: whose tensors are used, not copied.
        names: of nodes that are one tensor of floats each.
    """

    def __init__(self, graph: Graph, names: Sequence[str]) -> None:
        self._graph = graph
        inside = copy.deepcopy(graph.module.graph)
        nodes = {node.name: node for node in inside.nodes}
        (output,) = (node for node in inside.nodes if node.op == "output")
        output.args = ((*output.args[0], *(nodes[name] for name in names)),)  # type: ignore[misc]
        self._module = fx.GraphModule(graph.module, inside)
        self.outputs = (*graph.outputs, *(TensorSpec(name, "float32", ()) for name in names))

    @property
    def device(self) -> torch.device:
        """Where the graph computes."""
        return self._graph.device

    def flat(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Run on flat tensors; give the outputs, then the values."""
        return self._module(*leaves)


class Inside:
    """Runs only as far as some values need it, and gives these.

    Args:
        graph: whose tensors are used, not copied.
        names: of the nodes.
    """

    def __init__(self, graph: Graph, names: Sequence[str]) -> None:
        inside = copy.deepcopy(graph.module.graph)
        nodes = {node.name: node for node in inside.nodes}
        (output,) = (node for node in inside.nodes if node.op == "output")
        output.args = (tuple(nodes[name] for name in names),)
        inside.eliminate_dead_code()
        self._module = fx.GraphModule(graph.module, inside)

    def __call__(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Run on flat tensors."""
        return self._module(*leaves)

"""Which layer of the captured graph a runtime's node is: runtimes fuse and rename."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from leanly.artifact import Kernel

if TYPE_CHECKING:
    from torch.fx import Node

    from leanly.graph import Graph

MULTIPLIES = re.compile(
    r"conv|matmul|gemm|fullyconnected|attention|(?<!quantize)linear|lstm|addmm|einsum", re.IGNORECASE
)


def kernel_of(graph: Graph, node: Node, kernels: Sequence[Kernel]) -> Kernel | None:
    """Return the multiplying kernel that bears the name of a graph's node; runtimes put things before and behind it."""
    candidates = [kernel for kernel in kernels if MULTIPLIES.search(kernel.operator)]
    for name in _aliases(graph, node):
        pattern = re.compile(rf"(^|node_|/){re.escape(name)}($|/|_(token|nchwc|quant|kernel|bias|fused)|\.)")
        for kernel in candidates:
            if pattern.search(kernel.name):
                return kernel
    return None


def layer_seconds(
    graph: Graph, layers: Iterable[str], kernels: Sequence[Kernel], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Return the seconds of each layer whose kernel is known and was timed.

    Args:
        graph: holds the layers.
        layers: names of nodes.
        kernels: of the artifact, as its runtime names them.
        seconds: of each kernel, by its name.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    found = {name: kernel_of(graph, nodes[name], kernels) for name in layers}
    return {name: seconds[kernel.name] for name, kernel in found.items() if kernel and kernel.name in seconds}


def _aliases(graph: Graph, node: Node) -> list[str]:
    """Names under which a runtime may show a node: its own, then those of what is fused behind it, an output's too."""
    names = []
    for _ in range(4):
        names.append(node.name)
        users = list(node.users)
        if len(users) != 1:
            break
        if users[0].op == "output":
            names += [spec.name for spec, given in zip(graph.outputs, users[0].args[0], strict=True) if given is node]  # type: ignore[arg-type]
            break
        node = users[0]
    return names

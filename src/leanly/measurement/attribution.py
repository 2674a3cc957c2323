"""Which layer of the captured graph a runtime's node is: runtimes fuse and rename."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from leanly.artifact import Artifact, Kernel
from leanly.costs import NodeTimes
from leanly.measurement.inputs import timing_inputs
from leanly.measurement.latency import open_workers, time_workers
from leanly.measurement.profiling import CALLS, profile
from leanly.target import Target

if TYPE_CHECKING:
    from torch.fx import Node

    from leanly.graph import Graph
    from leanly.task import Task

SECONDS = 1.5
"""Of timing an artifact whose nodes were timed: what its copies take is compared to a few percent."""
PROFILED_SECONDS, FEWEST_CALLS = 5.0, 9
"""Of calls whose nodes are timed, and how many they are at least: a large network's calls take long."""
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
    timed: dict[str, float] = {}
    for name, kernel in found.items():
        if kernel is None:
            continue
        # what was timed for other rows may have been fused otherwise: the same name, and what became of it
        stem = kernel.name.split("/")[0]
        known = [kernel.name] if kernel.name in seconds else [one for one in seconds if one.split("/")[0] == stem]
        if known:
            timed[name] = sum(seconds[one] for one in known)
    return timed


def node_times(
    task: Task | None,
    target: Target,
    graph: Graph,
    artifact: Artifact,
    batch_size: int,
    beside: Artifact | None = None,
) -> NodeTimes:
    """Time the nodes of an artifact, and all of it; those that are layers of its graph are known by name.

    A profiler adds to every node: the whole is timed without it. A machine is faster at one time than at another: what
    is to be compared is timed in turns.

    Args:
        task: gives the rows; made up where None.
        target: says how many threads.
        graph: that the artifact was made of.
        artifact: in a runtime that tells of its nodes.
        batch_size: rows in a call.
        beside: another artifact for the same rows, timed in turns with it.
    """
    split = task.split("validation") if task is not None else None
    with open_workers([artifact, *([beside] if beside else [])], target.threads) as workers:
        inputs = timing_inputs(artifact, task, split, (batch_size,))
        medians = [latency[batch_size].median for latency in time_workers(workers, inputs, seconds=SECONDS)]
    calls = min(CALLS, max(FEWEST_CALLS, round(PROFILED_SECONDS / medians[0])))
    seconds = profile(artifact, task, batch_size=batch_size, threads=target.threads, calls=calls)
    names = [node.name for node in graph.module.graph.nodes if node.op == "call_function"]
    return NodeTimes(layer_seconds(graph, names, artifact.proven, seconds), *medians)


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

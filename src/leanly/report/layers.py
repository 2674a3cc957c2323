"""What each layer of the best costs, and in which kernel and precision it ran."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from leanly.artifact import Artifact, Kernel
from leanly.errors import LeanlyError
from leanly.measurement.attribution import MULTIPLIES, kernel_of


@dataclass(frozen=True)
class Layer:
    """One layer of the captured graph that multiplies or holds parameters."""

    name: str
    source: str
    kernel: str
    precision: str
    macs: int
    parameters: int
    float_bytes: int
    stored_bytes: float | None
    output: str
    whole_macs: int
    whole_output: str


@dataclass(frozen=True)
class Layers:
    """The layers of an artifact in the order they run, and the names of those that the whole network had besides."""

    rows: tuple[Layer, ...]
    removed: tuple[str, ...]
    smaller: bool

    @property
    def macs(self) -> int:
        """MACs of a row, in all."""
        return sum(layer.macs for layer in self.rows)


def layers(whole: Path, network: Path | None, artifact: Artifact) -> Layers | None:
    """Return the layers of an artifact; None where a graph is gone or PyTorch is not installed.

    Args:
        whole: folder of the graph as it was captured.
        network: folder of the smaller network that the artifact was made of; None for the whole one.
        artifact: tells kernels and stored bits.
    """
    try:
        from leanly.graph import Graph

        original = Graph.open(whole)
        graph = Graph.open(network) if network is not None else original
    except (ImportError, LeanlyError):
        return None
    before = {cost.name: cost for cost in original.cost(1).nodes if cost.macs or cost.parameters}
    stored = {re.sub(r"_int$", "", name): bits * count / 8 for name, (bits, count) in artifact.storage_bits.items()}
    nodes = {node.name: node for node in graph.module.graph.nodes}
    found = []
    for cost in graph.cost(1).nodes:
        if not cost.macs and not cost.parameters:
            continue
        node = nodes[cost.name]
        names = [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]
        held = [stored[name] for name in names if name in stored]
        kernel = kernel_of(graph, node, artifact.proven)
        first = before.get(cost.name, cost)
        found.append(
            Layer(
                name=cost.name,
                source=cost.source,
                kernel=f"{kernel.operator} ({kernel.implementation})" if kernel else "fused or renamed",
                precision=kernel.precision if kernel else "",
                macs=cost.macs,
                parameters=cost.parameters,
                float_bytes=cost.parameter_bytes,
                stored_bytes=sum(held) if held else None,
                output=" x ".join(map(str, cost.output_shape)),
                whole_macs=first.macs,
                whole_output=" x ".join(map(str, first.output_shape)),
            )
        )
    there = {layer.name for layer in found}
    return Layers(tuple(found), tuple(name for name in before if name not in there), network is not None)


def kernel_counts(artifact: Artifact) -> list[tuple[str, str, int]]:
    """Return operator, precision and count of the kernels, those that multiply first."""
    counts = Counter((kernel.operator, kernel.precision) for kernel in artifact.proven if not _is_data(kernel))
    order = sorted(counts.items(), key=lambda item: (not MULTIPLIES.search(item[0][0]), -item[1], item[0]))
    return [(operator, precision, count) for (operator, precision), count in order]


def _is_data(kernel: Kernel) -> bool:
    return kernel.operator in ("Const", "Constant", "Input", "Output", "Parameter", "Result")

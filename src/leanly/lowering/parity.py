"""Parity of an integer artifact with its graph: no integer is more than one step off.

Two arithmetics that differ in a last bit round a value here and there to neighbouring integers, and what follows from
those differs further; so outputs alone can't tell rounding from a wrong weight. A twin of the file gives its integers
out as well, and each is compared with what the graph makes of the runtime's own integers before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from leanly.artifact import Artifact
from leanly.errors import LoweringError
from leanly.graph import Graph
from leanly.graph.quantizer import along, of_weight
from leanly.quantize.binary import OF_VALUES
from leanly.quantize.quantizers import is_quantizer
from leanly.runtimes import open_artifact
from leanly.structure import TensorSpec

ROUNDING = 1e-3
"""By so much of a step, or of the largest of the values that a threshold is compared with, two floats may differ."""
LARGEST = 2**30
"""Bytes of integers, as floats, that are held at once; of larger batches the outputs alone are compared, by `prove`."""
LEVELS = 255
"""Steps between the smallest and the largest value of an output."""


def check_steps(artifact: Artifact, graph: Graph, batches: tuple[int, ...]) -> None:
    """Compare each integer that an ONNX artifact computes with its graph's, and then the outputs, to within one step.

    What is in float is computed in float32 here: what bfloat16 changes is the user's choice, not an error.

    Args:
        artifact: int8, of ONNX Runtime or OpenVINO.
        graph: that it was made of.
        batches: rows in a call, one call each.

    Raises:
        LoweringError: an integer or an output is further off; the layer is named.
    """
    nodes = _by_name(graph)
    rounded = set(nodes.values())
    if not rounded:
        return
    shapes = graph.shapes(1)
    row = 4 * sum(math.prod(shapes[node.name]) for node in rounded)
    (ends,) = (node.args[0] for node in graph.module.graph.nodes if node.op == "output")
    with _twin(artifact, nodes) as (predictor, names):
        for batch in (size for size in batches if size == min(batches) or size * row <= LARGEST):
            inputs = graph.example_batch(batch)
            arrays = predictor.run([np.ascontiguousarray(tensor.numpy()) for tensor in inputs])
            found = [torch.from_numpy(array) for array in arrays]
            # outputs come first; one that is rounded itself bears the output's name in the file
            given = dict(zip((*ends, *(nodes[name] for name in names)), found, strict=True))
            beside = _Beside(graph, {node: value for node, value in given.items() if node in rounded})
            with torch.no_grad():
                outputs = beside.run(*inputs)
            for spec, own, other in zip(graph.outputs, outputs, found, strict=False):
                if own.is_floating_point() and own.numel():
                    step = max((own.max() - own.min()).item() / LEVELS, ROUNDING * own.abs().max().item())
                    off = (own - other).abs().max().item()
                    if not off <= step:
                        raise _differs(f"output {spec.name}", f"{off / step:.1f} steps", batch)


class _Beside(Interpreter):
    """Runs a graph with the integers that a runtime found put in the place of its own, after comparing the two."""

    def __init__(self, graph: Graph, given: Mapping[Node, Tensor]) -> None:
        super().__init__(graph.module)
        self._graph, self._given = graph, given

    def run_node(self, n: Node) -> Any:
        own = super().run_node(n)
        given = self._given.get(n)
        if given is None or own.numel() == 0:
            return own
        args: list[Any] = [self.env[arg] if isinstance(arg, Node) else arg for arg in n.args]
        off = _flipped(own, given, *args) if n.target is OF_VALUES else _steps(own, given, *args)
        if not off <= 1 + ROUNDING:
            told = "the other sign" if n.target is OF_VALUES else f"{off:.0f} steps"
            raise _differs(self._graph.source(n), told, len(own))
        return given


def _steps(own: Tensor, given: Tensor, x: Tensor, scale: Tensor, shift: Tensor, axis: int, *_: int) -> float:
    """Return by how many steps two quantized tensors differ."""
    return ((own - given).abs() * along(scale, own, axis)).max().item()


def _flipped(own: Tensor, given: Tensor, x: Tensor, threshold: Tensor, scale: Tensor, axis: int) -> float:
    """Return how far from its threshold a value lies whose sign differs, over how far it may."""
    away = (x - along(threshold, x, axis)).abs() * ((own > 0) != (given > 0))
    return away.max().item() / max(ROUNDING * x.abs().max().item(), 1e-30)


def _by_name(graph: Graph) -> dict[str, Node]:
    """Return what is rounded by the names of the values in the file: the exporter counts equal operators."""
    values = [n for n in graph.module.graph.nodes if is_quantizer(n) and not of_weight(n)]
    signs = [n for n in graph.module.graph.nodes if n.target is OF_VALUES]
    return {
        f"{kind}_{place}" if place else kind: node
        for kind, found in (("fake_quantize", values), ("binarize", signs))
        for place, node in enumerate(found)
    }


@contextmanager
def _twin(artifact: Artifact, nodes: Mapping[str, Node]) -> Iterator[tuple[Any, list[str]]]:
    """Open a copy of the file that gives out what it rounds as well; and the names of that, in order."""
    model = onnx.load(str(artifact.model), load_external_data=False)
    computed = {name for node in model.graph.node for name in node.output}
    outputs = {value.name for value in model.graph.output}
    names = [name for name in nodes if name in computed - outputs]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    # beside the original, whose weights may lie in a file of their own
    path = artifact.folder / "twin.onnx"
    try:
        onnx.save(model, str(path))
        specs = tuple(TensorSpec(name, "float32", ()) for name in names)
        yield (
            open_artifact(
                replace(artifact, files=(path.name,), plans={}, rest="float32", outputs=(*artifact.outputs, *specs))
            ),
            names,
        )
    finally:
        path.unlink(missing_ok=True)


def _differs(where: str, by: str, batch: int) -> LoweringError:
    return LoweringError(
        f"the runtime differs from the graph by {by} at batch {batch}, one at most is rounding: {where}",
        where="lower",
        remedy="try another runtime, or keep that layer in float (float_nodes)",
    )

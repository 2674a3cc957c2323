"""Smooth: what is large in an activation moves into the weights that read it, so that both can be rounded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.computed import is_constant
from leanly.graph.nodes import argument, reads_tensor
from leanly.graph.statistics import check_finite
from leanly.graph.tensors import find, put, read_attr
from leanly.quantize.calibration import calibration_batches
from leanly.quantize.quantizers import check_float_weights
from leanly.scalars import is_number, is_whole
from leanly.target import Target
from leanly.task import Task

aten = torch.ops.aten
SMALLEST = 1e-5
"""Channels that are never larger than this on calibration rows are left as they are."""


@dataclass(frozen=True)
class Smooth:
    """Divide the input of each linear layer by a factor a channel, and multiply its weights by it: outputs stay.

    The factor is `max|x| ** alpha / max|w| ** (1 - alpha)`. Layers that read the same value share it. Where a layer
    norm made the value and nothing else reads it, the norm takes the division over; elsewhere it is a node of its own.
    Xiao et al. 2023, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models".

    Args:
        alpha: how much of the activations' range moves into the weights, from 0 to 1.
        samples: calibration rows, the first of `train` (of `validation` where there is no `train`).

    Raises:
        SettingError: a setting out of its range.
    """

    alpha: float = 0.9
    samples: int = 300

    def __post_init__(self) -> None:
        if not (is_number(self.alpha) and 0 <= self.alpha <= 1):
            raise SettingError(f"alpha is {self.alpha!r}", where="Smooth", remedy="give a share from 0 to 1")
        if not is_whole(self.samples, 1):
            raise SettingError(f"samples={self.samples}", where="Smooth", remedy="use at least one calibration row")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph that computes the same in eval mode; where there is nothing to smooth, with a note.

        Raises:
            DataError: the task has no calibration data, or NaN or infinity in what a layer reads.
            SettingError: weights are quantized already.
        """
        check_graph(graph, "Smooth")
        check_float_weights(graph, "Smooth")
        graph = graph.clone()
        graph.eval()
        groups = _groups(graph.module)
        if not groups:
            reason = "no linear layer has a weight that nothing else reads"
            graph.notes = (*graph.notes, f"quantize.Smooth: nothing to smooth: {reason}")
            return graph
        watch = _Largest(graph.module, {value.name for value in groups})
        with torch.no_grad():
            for batch, inputs in enumerate(calibration_batches(graph, task, self.samples)):
                watch.run(*(tensor.to(graph.device) for tensor in inputs))
                for name, largest in watch.largest.items():
                    check_finite(largest, f"{name}, calibration batch {batch}")
            for value, layers in groups.items():
                _smooth(graph.module, value, layers, watch.largest[value.name], self.alpha)
        graph.module.graph.lint()
        graph.module.recompile()
        return graph


def _groups(module: GraphModule) -> dict[Node, list[Node]]:
    """Return the linear layers by the value that they read; a weight that others read as well stays as it is."""
    groups: dict[Node, list[Node]] = {}
    for node in module.graph.nodes:
        if node.target is aten.linear.default and reads_tensor(argument(node, "weight")):
            groups.setdefault(argument(node, "input"), []).append(node)
    return {
        value: layers
        for value, layers in groups.items()
        if not is_constant(value)
        and all(len(argument(layer, "weight").users) == 1 and _reads_once(module, layer) for layer in layers)
    }


def _reads_once(module: GraphModule, layer: Node) -> bool:
    name = argument(layer, "weight").target
    return sum(node.op == "get_attr" and node.target == name for node in module.graph.nodes) == 1


def _smooth(module: GraphModule, value: Node, layers: list[Node], largest: Tensor, alpha: float) -> None:
    weights = [find(module, str(argument(layer, "weight").target)) for layer in layers]
    steepest = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0)
    factor = largest.clamp(min=SMALLEST) ** alpha / steepest.clamp(min=SMALLEST) ** (1 - alpha)
    factor = torch.where((largest > SMALLEST) & (steepest > SMALLEST), factor, torch.ones_like(factor))
    for weight in weights:
        weight.mul_(factor)
    if _absorb(module, value, layers, factor):
        return
    name = f"smoothing.{value.name}"
    put(module, name, 1 / factor)
    with module.graph.inserting_after(value):
        scale = read_attr(module, name)
    with module.graph.inserting_after(scale):
        divided = module.graph.call_function(aten.mul.Tensor, (value, scale))
    divided.meta = dict(value.meta)
    for layer in layers:
        layer.replace_input_with(value, divided)


def _absorb(module: GraphModule, value: Node, layers: list[Node], factor: Tensor) -> bool:
    """Let the layer norm that made the value divide it, where it and its weights serve nothing else."""
    if value.target is not aten.layer_norm.default or set(value.users) != set(layers):
        return False
    scales = [argument(value, name) for name in ("weight", "bias")]
    if not all(reads_tensor(scale) and len(scale.users) == 1 for scale in scales):
        return False
    for scale in scales:
        find(module, str(scale.target)).div_(factor)
    return True


class _Largest(Interpreter):
    """Keeps the largest absolute value of each channel, the last dimension, of some values."""

    def __init__(self, module: GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self._names = names
        self.largest: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Tensor:
        value = super().run_node(n)
        if n.name in self._names:
            seen = value.abs().flatten(0, -2).amax(0)
            before = self.largest.get(n.name)
            self.largest[n.name] = seen if before is None else torch.maximum(before, seen)
        return value

"""LearnSteps: the scales of quantizers become parameters, which training then moves along with the weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from leanly.graph import Graph, check_graph
from leanly.graph.nodes import argument
from leanly.graph.quantizer import of_weight
from leanly.graph.tensors import find, put
from leanly.quantize.quantizers import is_quantizer, weight_quantizers
from leanly.scalars import check_flag
from leanly.target import Target
from leanly.task import Task


@dataclass(frozen=True)
class LearnSteps:
    """Let training learn the step of every quantizer, from where calibration put it.

    Esser et al. 2020, "Learned Step Size Quantization"; with `shifts` also the zero points of activations, Bhalgat et
    al. 2020, "LSQ+: Improving low-bit quantization through learnable offsets and better initialization". Put it behind
    `quantize.Static` and before `distill.Distill`; batch norm is folded by then, and stays so.

    Args:
        shifts: learn the zero points of asymmetric activations too; they are rounded wherever they are used.

    Raises:
        SettingError: a setting that is no flag.
    """

    shifts: bool = False

    def __post_init__(self) -> None:
        check_flag(self.shifts, name="shifts", where="LearnSteps")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return the same graph with more parameters; neither data nor target are needed.

        Raises:
            SettingError: no weight is quantized.
        """
        check_graph(graph, "LearnSteps")
        graph = graph.clone()
        weight_quantizers(graph, "LearnSteps")
        for node in graph.module.graph.nodes:
            if not is_quantizer(node):
                continue
            learned = ("scale", "shift") if self.shifts and not of_weight(node) else ("scale",)
            for name in learned:
                target_name = str(argument(node, name).target)
                put(graph.module, target_name, nn.Parameter(find(graph.module, target_name).detach().clone()))
        return graph

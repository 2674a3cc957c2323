"""Reconstruct: weights are rounded up or down so that each part of the network gives what it gave in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.nodes import argument, argument_names, read_once
from leanly.graph.quantizer import of_weight
from leanly.graph.segments import Runner, Segment, batched
from leanly.graph.tensors import find
from leanly.quantize.descent import Descent
from leanly.quantize.quantizers import (
    check_float_outputs,
    is_quantizer,
    quantizes_values,
    read_affine,
    weight_quantizers,
    write_scale,
    write_weight,
)
from leanly.quantize.rounding import Bias, Rounding, Step
from leanly.quantize.walking import Stop, Walk, reads_quantized_weight
from leanly.scalars import check_flag, check_whole, is_number
from leanly.seeding import fixed_random
from leanly.target import Target
from leanly.task import Task

UNITS = ("block", "layer")
WARM = 0.2
"""Share of the steps in which nothing is drawn towards a decision."""
SHARPEST, BLUNTEST = 2.0, 20.0
DECIDING = 0.01
"""What an undecided rounding costs, beside the error of the outputs as a share of their power."""
STEP_RATE = 1e-3
"""Learning rate of the logarithm of an activation's scale."""
FIT = 0.25
"""Share of the steps that follow once the roundings are decided."""
GAIN_RATE = 1e-2
"""Learning rate of the logarithm of a weight's scale."""
BIAS_RATE = 1e-2
"""Learning rate of biases, as a share of what their layer puts out."""
LEAST_POWER = 1e-12


@dataclass(frozen=True)
class Reconstruct:
    """Choose for each quantized weight whether it is rounded up or down; no labels are needed.

    Part after part of the network is brought as near as can be to its float outputs, on the values that the quantized
    parts before it give. With `unit="layer"`, `drop=0`, `steps=False` and `fit=False` this is AdaRound (Nagel et al.
    2020, "Up or Down? Adaptive Rounding for Post-Training Quantization"); with whole blocks BRECQ (Li et al. 2021,
    "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction"); where activations are quantized
    at random, their scales learned along, QDrop (Wei et al. 2022, "QDrop: Randomly Dropping Quantization for Extremely
    Low-bit Post-Training Quantization").

    Put it behind `quantize.Static`.

    Args:
        iterations: steps of learning for each part.
        unit: "block" for residual blocks and what else lies between two points that everything passes, or "layer".
        drop: share of the activations that are left unquantized at random while a part learns.
        steps: learn the scales of the activations as well.
        fit: once the roundings are decided, fit biases to them, and scales of weights where activations are
            integers too, in a quarter as many steps.
        samples: calibration rows, the first of `train` (of `validation` where there is no `train`).
        batch_size: rows in a step.
        rate: learning rate of the roundings.
        seed: of the rows and of what is left unquantized.
        progress: called with the share that is done; no part of a recipe.

    Raises:
        SettingError: a setting out of its range.
    """

    iterations: int = 2000
    unit: str = "block"
    drop: float = 0.5
    steps: bool = True
    fit: bool = True
    samples: int = 1024
    batch_size: int = 32
    rate: float = 1e-2
    seed: int = 0
    progress: Callable[[float], None] | None = field(default=None, compare=False, metadata={"recipe": False})

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise SettingError(f"unit {self.unit!r} is unknown", where="Reconstruct", remedy='use "block" or "layer"')
        for name, least in (("iterations", 1), ("samples", 1), ("batch_size", 1), ("seed", 0)):
            check_whole(getattr(self, name), least, name=name, where="Reconstruct")
        for name in ("steps", "fit"):
            check_flag(getattr(self, name), name=name, where="Reconstruct")
        if self.progress is not None and not callable(self.progress):
            raise SettingError(
                f"progress is {self.progress!r}", where="Reconstruct", remedy="give a function of the share done"
            )
        if not (is_number(self.drop) and 0 <= self.drop < 1):
            raise SettingError(f"drop is {self.drop!r}", where="Reconstruct", remedy="give a share, 0 to below 1")
        if not (is_number(self.rate) and self.rate > 0):
            raise SettingError(f"rate is {self.rate!r}", where="Reconstruct", remedy="give a number above 0")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph whose weights lie on their integers, rounded as serves best.

        Layers of which no single output follows, such as one of two heads, are rounded to the nearest; a note says so.

        Raises:
            SettingError: no weight is quantized, or no output holds floats.
            DataError: the task has no calibration data.
        """
        check_graph(graph, "Reconstruct")
        check_float_outputs(graph, "Reconstruct")
        with fixed_random(self.seed), torch.inference_mode(False), torch.enable_grad():
            floats = graph.clone().eval() if graph.training else graph
            graph = graph.clone().eval()
            quantizers = weight_quantizers(graph, "Reconstruct")
            inside = self.unit == "layer"
            walk = Walk(graph, task, self.samples, "Reconstruct", inside=inside, floats=floats)
            work = _Reconstruction(self, graph, walk)
            work.run()
        left = {name: node for name, node in quantizers.items() if node not in work.decided}
        for name, node in left.items():
            affine, weight = read_affine(graph.module, node), find(graph.module, name).detach()
            write_weight(graph.module, node, affine.dequantize(affine.quantize(weight)))
        if left:
            graph.notes = (*graph.notes, f"quantize.Reconstruct: rounded to the nearest: {', '.join(left)}")
        graph.module.zero_grad()
        return graph


class _Part(NamedTuple):
    """What is learned at once, and what goes into it."""

    segment: Segment
    exact: list[Tensor]
    rough: list[Tensor]


class _Reconstruction:
    def __init__(self, how: Reconstruct, graph: Graph, walk: Walk) -> None:
        self._how, self._module, self._walk = how, graph.module, walk
        self.decided: set[Node] = set()
        # where weights alone are integers, their steps are numbers of float16 and have to stay that
        self._gains = quantizes_values(graph)
        # rows are drawn along the first dimension: where a layer has another one in front, its block is one part
        self._apart = batched(graph) if how.unit == "layer" else set()

    def run(self) -> None:
        for number, stop in enumerate(self._walk):
            self._learn_parts(stop)
            if self._how.progress is not None:
                self._how.progress((number + 1) / len(self._walk.segments))

    def _learn_parts(self, stop: Stop) -> None:
        for part in self._parts(stop):
            self._learn(part)

    def _parts(self, stop: Stop) -> Iterator[_Part]:
        nodes = [self._walk.nodes[name] for name in stop.segment.nodes]
        layers = [node for node in nodes if reads_quantized_weight(node)]
        if all(node.name in self._apart and len(_computed(node)) == 1 for node in layers):
            yield from (self._layer(node, stop) for node in layers)
        else:
            yield _Part(*stop)

    def _layer(self, node: Node, stop: Stop) -> _Part:
        """Return one layer, with the quantizer that it reads and the values that it is given."""
        (entry,) = _computed(node)
        read = [source for source in node.all_input_nodes if source is not entry]
        if is_quantizer(entry):
            read.append(entry)
            entry = argument(entry, "x")
        tensors = {given for source in read for given in source.all_input_nodes if given.op == "get_attr"}
        needed = {node, *read, *tensors}
        nodes = tuple(name for name, other in self._walk.nodes.items() if other in needed)
        segment = Segment("" if entry.op == "placeholder" else entry.name, node.name, nodes)
        if segment.entry == stop.segment.entry:
            return _Part(segment, stop.exact, stop.rough)
        before = stop.segment.until(entry.name)
        walk = self._walk
        return _Part(segment, walk.run(walk.exactly, before, stop.exact), walk.run(walk.roughly, before, stop.rough))

    def _learn(self, part: _Part) -> None:
        how, module, walk, (segment, exact, rough) = self._how, self._module, self._walk, part
        quantizers = [node for name in segment.nodes if is_quantizer(node := walk.nodes[name])]
        roundings = {
            node: Rounding(find(module, str(argument(node, "x").target)), read_affine(module, node))
            for node in quantizers
            if of_weight(node) and node not in self.decided
        }
        if not roundings:
            return
        steps = {node: Step(read_affine(module, node)) for node in quantizers if how.steps and not of_weight(node)}
        layers = self._biased(segment) if how.fit else {}
        sizes: dict[str, float] = {}

        def see(running: Runner) -> None:
            sizes.update({name: float(running.named(name).square().mean().sqrt()) for name in layers})

        wanted = walk.run(walk.exactly, segment, exact, see)
        power = sum(float(chunk.square().sum()) for chunk in wanted) / sum(chunk.numel() for chunk in wanted)
        biases = {node: Bias(find(module, str(node.target)), sizes[name]) for name, node in layers.items()}
        tensors: dict[Node, Callable[[], Tensor]] = {node: rounding.soft for node, rounding in roundings.items()}
        tensors |= {node: bias.value for node, bias in biases.items()}
        runner = Runner(module, lambda node, running: _relaxed(node, running, tensors, steps, how.drop))

        def loss(rows: Tensor) -> Tensor:
            given: dict[str, Tensor] = {}
            if segment.entry:
                given = {segment.entry: _mixed(walk.picked(rough, rows), walk.picked(exact, rows), how.drop)}
            output = runner.part(segment.nodes, walk.inputs(rows), given, segment.exit)
            return _error(output, walk.picked(wanted, rows)) / max(power, LEAST_POWER)

        descent = Descent(loss, walk.alike(len(wanted)), how.batch_size, walk.chunk)
        self._decide(descent, roundings.values(), steps.values())
        tensors |= {node: rounding.hard for node, rounding in roundings.items()}
        if how.fit:
            self._fit(descent, roundings.values(), steps.values(), biases.values())
        runner.env.clear()
        for node, rounding in roundings.items():
            write_weight(module, node, rounding.hard())
            write_scale(module, node, rounding.scale)
            self.decided.add(node)
        for node, step in steps.items():
            write_scale(module, node, step.scale)
        for node, bias in biases.items():
            find(module, str(node.target)).detach().copy_(bias.value().detach())

    def _decide(self, descent: Descent, roundings: Collection[Rounding], steps: Collection[Step]) -> None:
        count = self._how.iterations
        optimizer = torch.optim.Adam([
            {"params": [entry.variable for entry in roundings], "lr": self._how.rate},
            {"params": [entry.variable for entry in steps], "lr": STEP_RATE},
        ])  # fmt: skip
        for iteration in range(count):
            done = (iteration / count - WARM) / (1 - WARM)
            undecided = None
            if done >= 0:
                sharpness = SHARPEST + (BLUNTEST - SHARPEST) * (1 - done)
                undecided = DECIDING * torch.stack([r.undecided(sharpness) for r in roundings]).sum()
            descent.step(optimizer, undecided)

    def _fit(
        self,
        descent: Descent,
        roundings: Collection[Rounding],
        steps: Collection[Step],
        biases: Collection[Bias],
    ) -> None:
        optimizer = torch.optim.Adam([
            {"params": [entry.gain for entry in roundings if self._gains], "lr": GAIN_RATE},
            {"params": [entry.variable for entry in steps], "lr": STEP_RATE},
            {"params": [entry.variable for entry in biases], "lr": BIAS_RATE},
        ])  # fmt: skip
        count = math.ceil(FIT * self._how.iterations)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / count)
        for _ in range(count):
            descent.step(optimizer)
            schedule.step()

    def _biased(self, segment: Segment) -> dict[str, Node]:
        """Return the biases of the layers of a part that no other layer reads, by the layers' names."""
        found = {}
        for name in segment.nodes:
            layer = self._walk.nodes[name]
            if not reads_quantized_weight(layer) or "bias" not in argument_names(layer):
                continue
            bias = argument(layer, "bias")
            if isinstance(bias, Node) and read_once(bias):
                found[name] = bias
        return found


def _relaxed(
    node: Node,
    running: Runner,
    tensors: Mapping[Node, Callable[[], Tensor]],
    steps: Mapping[Node, Step],
    drop: float,
) -> Tensor | None:
    """Return a weight or bias as it is now, or an activation of which a share stays unquantized."""
    if node in tensors:
        return tensors[node]()
    if not is_quantizer(node) or of_weight(node):
        return None
    value = running.value(argument(node, "x"))
    quantized = steps[node].quantized(value) if node in steps else running.run_plain(node)
    return _mixed(quantized, value, drop)


def _computed(layer: Node) -> list[Node]:
    """Return what a layer reads besides tensors and quantized weights."""
    return [source for source in layer.all_input_nodes if source.op != "get_attr" and not of_weight(source)]


def _mixed(quantized: Tensor, exact: Tensor, drop: float) -> Tensor:
    """Return the quantized values, a share of them (to a 256th) replaced by the exact ones at random."""
    if drop == 0:
        return quantized
    # a byte a value and `lerp` take a tenth of the time of `rand_like` and `where`
    words = torch.empty(-(-quantized.numel() // 8), dtype=torch.int64, device=quantized.device)
    chances = words.random_(-(2**63), None).view(torch.uint8)[: quantized.numel()].view(quantized.shape)
    return torch.lerp(quantized, exact, (chances < int(256 * drop)).to(quantized.dtype))


def _error(output: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared error, summed over channels and averaged over everything else."""
    channel = 1 if output.ndim == 4 else -1
    return (output - wanted).square().sum(channel).mean()

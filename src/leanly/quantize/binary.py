"""Binary: weights, and what they multiply, in one bit; the network that training then starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from leanly.errors import DataError, SettingError
from leanly.graph import Graph, check_nodes
from leanly.graph import binarizer as _operators  # noqa: F401  (registers the operators named below)
from leanly.graph.computed import is_constant
from leanly.graph.layers import CONVOLUTIONS
from leanly.graph.nodes import argument, first_argument, reads_tensor
from leanly.graph.tensors import find, put, read_attr
from leanly.quantize.calibration import calibration_batches
from leanly.quantize.forms import Form, check_runs
from leanly.quantize.placement import UNCHANGING, WEIGHTED, root
from leanly.quantize.quantizers import check_quantizable
from leanly.scalars import check_flag, check_whole, is_whole, names_of
from leanly.target import Target
from leanly.task import Task

aten = torch.ops.aten
OF_WEIGHT = torch.ops.leanly.binarize_weight.default
OF_VALUES = torch.ops.leanly.binarize.default
RELUS = frozenset({aten.relu.default, aten.relu_.default})
SLOPE = 0.25
"""Of what is below zero, at first, where a learned slope takes the place of ReLU."""
LEAST_SCALE = 1e-6


@dataclass(frozen=True)
class Binary:
    """Put weights, and what they multiply, into one bit each; all layers but the first and the last.

    Weights are their signs around the channel's mean, with one scale a channel (Rastegari et al. 2016, "XNOR-Net"; Qin
    et al. 2020, "Forward and Backward Information Retention for Accurate Binary Neural Networks"). Activations are
    signs against a learned threshold a channel (Liu et al. 2020, "ReActNet"), with one learned scale. What comes out is
    no use as it is: put `distill.Distill` behind it, with some ten epochs or more. Batch norm is not folded, it trains.

    Args:
        activations: 1, or 32 for weights alone.
        shortcuts: around each layer whose input and output are alike goes a path in float, in the place of one around
            the whole block (Liu et al. 2018, "Bi-Real Net"), and the ReLU before it learns a slope below zero; only
            with `activations=1`.
        float_nodes: names of nodes that stay float (see `graph.cost().nodes`), beside the first and the last layer.
        samples: rows from which thresholds and scales start, of `train` (of `validation` where there is no `train`).
        weights: 1, or 32 to train activations first: `Binary(activations=32)` then puts the weights into one bit
            (Martinez et al. 2020, "Training Binary Neural Networks with Real-to-Binary Convolutions").

    Raises:
        SettingError: a setting out of its range.
    """

    activations: int = 1
    shortcuts: bool = True
    float_nodes: tuple[str, ...] = ()
    samples: int = 128
    weights: int = 1

    def __post_init__(self) -> None:
        for name in ("activations", "weights"):
            if not is_whole(getattr(self, name), 1) or getattr(self, name) not in (1, 32):
                raise SettingError(
                    f"{name}={getattr(self, name)!r} bits can't be used",
                    where="Binary",
                    remedy="use 1, or 32 for float",
                )
        if self.activations == self.weights == 32:
            raise SettingError("nothing is put into one bit", where="Binary", remedy="use weights=1 or activations=1")
        object.__setattr__(self, "float_nodes", names_of(self.float_nodes, name="float_nodes", where="Binary"))
        check_flag(self.shortcuts, name="shortcuts", where="Binary")
        check_whole(self.samples, 2, name="samples", where="Binary")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return the graph with one-bit layers; rows are needed for activations alone.

        Raises:
            DataError: no rows, rows of another shape, or NaN in what runs through.
            SettingError: nothing is left to binarize, weights of another precision than float32, a float node that
                does not exist, or a target whose runtimes keep no signs.
        """
        check_quantizable(graph, "Binary")
        check_runs(Form.SIGNS, target, "Binary")
        graph = graph.clone()
        layers = self._layers(graph)
        if self.activations == 1:
            if self.shortcuts:
                _add_shortcuts(graph, layers)
            for layer in layers:
                _binarize_input(graph.module, layer)
        if self.weights == 1:
            for layer in layers:
                _binarize_weight(graph.module, argument(layer, "weight"))
        graph.module.graph.lint()
        graph.module.recompile()
        if self.activations == 1:
            _start(graph, task, self.samples)
        return graph

    def _layers(self, graph: Graph) -> list[Node]:
        check_nodes(graph, "float_nodes", self.float_nodes, "Binary")
        for bits, what, done in (
            (self.weights, "weights", has_signs(graph)),
            (self.activations, "activations", multiplies_signs(graph)),
        ):
            if bits == 1 and done:
                raise SettingError(
                    f"the graph's {what} are in one bit already", where="Binary", remedy="start from the float graph"
                )
        found = [
            node
            for node in graph.module.graph.nodes
            if node.target in WEIGHTED and reads_tensor(argument(node, "weight"))
            if not is_constant(argument(node, "input"))
        ]
        layers = [node for node in found[1:-1] if node.name not in self.float_nodes]
        if not layers:
            raise SettingError(
                "the network has no convolution or linear layer"
                if not found
                else f"no layer can go to one bit: of {len(found)} the first and the last stay float",
                where="Binary",
                remedy=f"{'shorten float_nodes, or ' if self.float_nodes else ''}use quantize.Static",
            )
        return layers


def weight_in_signs(layer: Node) -> bool:
    """Say whether a layer's weight is in one bit."""
    return layer.target in WEIGHTED and getattr(argument(layer, "weight"), "target", None) is OF_WEIGHT


def is_binarized(layer: Node) -> bool:
    """Say whether a layer multiplies signs with signs."""
    return weight_in_signs(layer) and getattr(argument(layer, "input"), "target", None) is OF_VALUES


def has_signs(graph: Graph) -> bool:
    """Say whether any weight is in one bit."""
    return any(node.target is OF_WEIGHT for node in graph.module.graph.nodes)


def multiplies_signs(graph: Graph) -> bool:
    """Say whether any layer is given signs."""
    return any(node.target is OF_VALUES for node in graph.module.graph.nodes)


def channel_axis(layer: Node) -> int:
    """Return the dimension of a layer's input that holds its channels."""
    return 1 if layer.target in CONVOLUTIONS else -1


def _binarize_weight(module: GraphModule, weight: Node) -> None:
    if weight.target is OF_WEIGHT or any(reader.target is OF_WEIGHT for reader in weight.users):
        return  # two layers share it
    with module.graph.inserting_after(weight):
        node = module.graph.call_function(OF_WEIGHT, (weight,))
    node.meta = dict(weight.meta)
    weight.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)


def _binarize_input(module: GraphModule, layer: Node) -> None:
    value, axis = argument(layer, "input"), channel_axis(layer)
    alike = [node for node in value.users if node.target is OF_VALUES and argument(node, "axis") == axis]
    if alike:
        layer.replace_input_with(value, alike[0])
        return
    weight = find(module, str(argument(layer, "weight").target))
    groups = argument(layer, "groups") if layer.target in CONVOLUTIONS else 1
    # a scale is learned as a quantizer's step is, a threshold as a bias
    names = f"thresholds.{layer.name}", f"quantizers.{layer.name}_input.scale"
    put(module, names[0], nn.Parameter(weight.new_zeros(weight.shape[1] * groups)))
    put(module, names[1], nn.Parameter(weight.new_ones(())))
    with module.graph.inserting_before(layer):
        reads = tuple(read_attr(module, name) for name in names)
        node = module.graph.call_function(OF_VALUES, (value, *reads, axis))
    node.meta = dict(value.meta)
    layer.replace_input_with(value, node)


def _add_shortcuts(graph: Graph, layers: list[Node]) -> None:
    shapes = dict(graph.shapes(2))
    passed_on: dict[Node, Node] = {}  # sum -> the value that a shortcut adds in it
    for layer in layers:
        value, end = argument(layer, "input"), layer
        readers = list(layer.users)
        if len(readers) == 1 and readers[0].target is aten.batch_norm.default:
            end = readers[0]
        if shapes[value.name] != shapes[end.name]:
            continue
        before = passed_on.get(root(value, UNCHANGING | RELUS))
        total = None if before is None else _sum_of(end, before)
        if before is not None and total is not None:
            # the block's own shortcut: what it adds is in `value` already, and would double from block to block
            total.replace_input_with(before, value)
        else:
            total = _added(graph.module, end, value)
            shapes[total.name] = shapes[end.name]
        passed_on[total] = value
    for layer in layers:
        before = root(argument(layer, "input"))
        if before.target in RELUS and layer.target in CONVOLUTIONS:
            _learn_slope(graph.module, before, shapes[before.name][1])


def _sum_of(one: Node, other: Node) -> Node | None:
    sums = (node for node in one.users if node.target is aten.add.Tensor)
    return next((node for node in sums if set(node.args) == {one, other}), None)


def _added(module: GraphModule, end: Node, value: Node) -> Node:
    """Add a value to the output of a node, for all that read it."""
    with module.graph.inserting_after(end):
        total = module.graph.call_function(aten.add.Tensor, (end, value))
    total.meta = dict(end.meta)
    end.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    return total


def _learn_slope(module: GraphModule, relu: Node, channels: int) -> None:
    name = f"slopes.{relu.name}"
    like = next(module.parameters())
    put(module, name, nn.Parameter(torch.full((channels,), SLOPE, dtype=like.dtype, device=like.device)))
    with module.graph.inserting_before(relu):
        slope = read_attr(module, name)
        node = module.graph.call_function(aten.prelu.default, (first_argument(relu), slope))
    node.meta = dict(relu.meta)
    relu.replace_all_uses_with(node)
    module.graph.erase_node(relu)


def _start(graph: Graph, task: Task | None, samples: int) -> None:
    """Set thresholds and scales from rows, one layer after the other, each as those before it leave them."""
    # one batch: where a stream's rows differ in length, those of the first length are it
    rows, *_ = calibration_batches(graph, task, samples, size=samples)
    twin = graph.clone().train()
    starting = _Start(twin.module)
    with torch.no_grad():
        starting.run(*(tensor.to(graph.device) for tensor in rows))
    for name, value in starting.found.items():
        find(graph.module, name).data.copy_(value)


class _Start(Interpreter):
    """Runs with the batch's own statistics, since those that batch norm holds are of another network."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        if n.target is not OF_VALUES:
            return super().run_node(n)
        x, axis = self.env[argument(n, "x")], argument(n, "axis") % self.env[argument(n, "x")].ndim
        threshold = x.mean([place for place in range(x.ndim) if place != axis])
        shape = [-1 if place == axis else 1 for place in range(x.ndim)]
        scale = (x - threshold.reshape(shape)).abs().mean().clamp(min=LEAST_SCALE)
        if not bool(scale.isfinite()):
            raise DataError(
                f"values of {n.args[0]} are no numbers",
                where="Binary, as rows run through the graph",
                remedy="task.check() names the rows that hold NaN or infinity",
            )
        for part, value in (("threshold", threshold), ("scale", scale)):
            self.found[str(argument(n, part).target)] = value
        return OF_VALUES(x, threshold, scale, axis)

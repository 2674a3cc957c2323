"""Refit: what a cut took from a layer's outputs is made up for by the weights that are left, without training."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from leanly.data import Split
from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.columns import as_rows, columns, from_rows, has_columns, is_product, summed_products
from leanly.graph.layers import LAYERS, bias_of, learned_layers, other_layers, reads_parameter, transposed_groups
from leanly.graph.nodes import argument, read_once
from leanly.graph.norms import is_stored_norm
from leanly.graph.sweeping import Sweep
from leanly.graph.tensors import find
from leanly.graph.zeros import told_if_filled
from leanly.prune.destinations import Destination, destination
from leanly.prune.labels import seen_rows
from leanly.prune.reading import check_seen, read_rows
from leanly.scalars import check_whole, is_number
from leanly.target import Target
from leanly.task import Task
from leanly.training.teachers import check_teacher, find_teacher

BATCH = 32
DAMPINGS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""That are tried."""
USUAL = 0.1
"""Damping where one place is all there is."""


@dataclass(frozen=True)
class Refit:
    """Solve each layer's weights for the outputs that it had before the cut, layer after layer, in closed form.

    Least squares over the values that run through both networks; labels are not used. What counts is what comes out of
    the batch norms behind a layer, and where that is added to another branch the layer makes up for what this one has
    lost by then, too. He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks". Put it behind
    `prune.Channels` or `prune.Layers`, and no `training.BatchNorm` behind it: weights are solved for the statistics
    that are there.

    Args:
        teacher: the network before the cut: "original" for the task's model, a Graph, or a trained nn.Module.
        samples: rows, the first of `train` (of `validation` where there is no `train`).
        damping: how much the weights are held where they are, as a share of the mean power of what they multiply; None
            finds it for each layer: what is solved for one half of the rows is tried on the other, both ways.

    Raises:
        SettingError: a setting out of its range.
    """

    teacher: Any = "original"
    samples: int = 512
    damping: float | None = None

    def __post_init__(self) -> None:
        check_teacher(self.teacher, "Refit")
        check_whole(self.samples, 1, name="samples", where="Refit")
        if self.damping is not None and not (is_number(self.damping) and self.damping > 0):
            raise SettingError(f"damping is {self.damping!r}", where="Refit", remedy="give a number above 0, or None")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return the graph with its weights refitted.

        Raises:
            DataError: the task has no rows.
            SettingError: no layer of the graph is a part of one of the teacher's, or the teacher has lost more.
        """
        check_graph(graph, "Refit")
        split = seen_rows(task, "refitting needs rows, and there are none", where="Refit")
        assert task is not None, "it has rows"
        given, graph = graph, graph.clone()
        mode = graph.training
        graph.eval()
        teacher = find_teacher(self.teacher, task, "Refit", graph.device)
        layers = learned_layers(graph)
        same = _same_layers(layers, teacher)
        pairs = {layer: other for layer, other in same.items() if is_solvable(graph, layer)}
        others = other_layers(graph)
        made = any(node.target in LAYERS for node in graph.module.graph.nodes)
        if not pairs and (same or (made and not layers)):
            raise SettingError(
                "no layer has a weight of its own that can be solved: they are shared, computed or quantized",
                where="Refit",
                remedy="put it in front of the passes of leanly.quantize; leave it out where all weights are shared",
            )
        left = [layer.name for layer in layers if layer not in pairs]
        shapes = graph.shapes(2)
        running, batches = read_rows([graph, teacher], split, BATCH, self.samples)
        ours, theirs = (Sweep(one, [inputs for inputs, _ in batches]) for one in running)
        for layer, original in pairs.items():
            second = not is_product(layer) or len(shapes[layer.name]) == 2
            if not self._refit(_Side(graph, layer, ours, second), _Side(teacher, original, theirs, second), split):
                left.append(layer.name)
        if len(left) == len(layers):
            unknown = f"; it does not know {', '.join(others[:3])}" if others else ""
            raise SettingError(
                f"no layer of the graph is a part of one of the teacher's{unknown}",
                where="Refit",
                remedy="put it behind prune.Channels, or give the graph that was cut as teacher",
            )
        if left or others:
            graph.notes = (*graph.notes, f"prune.Refit left as they are: {', '.join([*left, *others])}")
        if filled := told_if_filled(given, graph):
            graph.notes = (*graph.notes, f"prune.Refit: {filled}; put it in front of prune.Sparse and prune.SparseGPT")
        return graph.train(mode)

    def _refit(self, ours: _Side, theirs: _Side, split: Split) -> bool:
        """Solve a layer; False where the teacher's runs over other places, as one between tokens that lost channels."""
        layer = ours.layer
        weight, shift = ours.weight, ours.shift()
        with torch.no_grad():
            halves = _halves(ours, theirs, constant=shift is not None)
            if halves is None:
                return False
            for squares, products in halves:
                check_seen(squares, ours.graph, layer, split, self.samples)
                check_seen(products, theirs.graph, theirs.layer, split, self.samples)
            now = as_rows(weight.double(), layer, len(halves[0].squares))
            held = torch.ones(now.shape[2], dtype=now.dtype, device=now.device)
            if shift is not None:
                held = torch.cat([held, held.new_zeros(1)])
                now = torch.cat([now, shift.values.double().reshape(len(now), -1, 1)], 2)
            problem = _Problem(now, held)
            solved = problem.solved(functools.reduce(_Sums.plus, halves), self.damping or problem.best_damping(halves))
            if shift is not None:
                shift.write(solved[:, :, -1].flatten())
                solved = solved[:, :, :-1]
            weight.copy_(from_rows(solved, layer, weight.shape))
        return True


def _halves(ours: _Side, theirs: _Side, constant: bool) -> list[_Sums] | None:
    """Add up what a layer is given and should make of it, over either half of the rows; None where places differ.

    Args:
        ours: the cut network's layer.
        theirs: the teacher's.
        constant: with a column of ones behind the inputs.
    """
    layer = ours.layer
    kept = kept_outputs(ours.graph, theirs.graph, layer).to(ours.graph.device)
    arrived, whole = ours.destination(), theirs.destination()
    names, wanted = [argument(layer, "input").name], [theirs.layer.name]
    if arrived is not None and whole is not None and arrived.total.name == whole.total.name:
        names += [arrived.other.name] if arrived.other is not None else []
        wanted.append(whole.total.name)
    kernel = ours.weight.shape[2:]
    halves: dict[int, _Sums] = {}
    for (given, *others), (output, *totals) in zip(ours.values(names), theirs.values(wanted), strict=True):
        x = columns(given, layer, kernel)
        if constant:
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        y = _outputs(output, layer)[kept]
        if y.shape[1] != x.shape[2]:
            return None
        for total in totals:
            assert arrived is not None
            missing = total.index_select(-1 if is_product(layer) else 1, kept) - sum(others)
            if (flat := _outputs(missing, layer)).shape == y.shape:  # not where others have more places
                y = arrived.before_norms(ours.graph, flat, y)
        y = y.reshape(len(x), -1, x.shape[2])
        # places stand row by row: the first rows of each batch, and the others
        for half, (some, made) in enumerate(zip(x.tensor_split(2, 2), y.tensor_split(2, 2), strict=True)):
            if some.shape[2]:
                sums = _Sums(summed_products(some, some), summed_products(made, some))
                halves[half] = halves[half].plus(sums) if half in halves else sums
    return list(halves.values())


@dataclass(frozen=True)
class _Side:
    """A layer, a sweep through the graph that has it, and whether its channels lie in dimension 1."""

    graph: Graph
    layer: Node
    sweep: Sweep
    channels_second: bool

    @property
    def weight(self) -> Tensor:
        return find(self.graph.module, str(argument(self.layer, "weight").target))

    def destination(self) -> Destination | None:
        return destination(self.layer, channels_second=self.channels_second)

    def shift(self) -> _Shift | None:
        bias = bias_of(self.layer)
        if bias is not None:
            return _Shift(find(self.graph.module, str(bias.target)), is_mean=False)
        if len(self.layer.users) != 1 or not self.channels_second:
            return None
        (norm,) = self.layer.users
        if not is_stored_norm(norm) or argument(norm, "input") is not self.layer:
            return None
        mean = argument(norm, "running_mean")
        return _Shift(find(self.graph.module, str(mean.target)), is_mean=True) if read_once(mean) else None

    def values(self, names: Sequence[str]) -> Iterator[tuple[Tensor, ...]]:
        return self.sweep.values(names, before=self.layer.name)


class _Shift(NamedTuple):
    """What is added to all outputs of a channel: a bias, or what the mean of the norm behind can lack."""

    tensor: Tensor
    is_mean: bool

    @property
    def values(self) -> Tensor:
        return torch.zeros_like(self.tensor) if self.is_mean else self.tensor

    def write(self, values: Tensor) -> None:
        self.tensor.copy_(self.tensor - values if self.is_mean else values)


class _Sums(NamedTuple):
    """What least squares need of some rows: `[groups, columns, columns]` and `[groups, outputs, columns]`."""

    squares: Tensor
    products: Tensor

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(self.squares + other.squares, self.products + other.products)


class _Problem(NamedTuple):
    """Least squares for a layer: its weights as they are, `[groups, outputs, columns]`, and which of them are held."""

    now: Tensor
    held: Tensor

    def solved(self, sums: _Sums, damping: float) -> Tensor:
        """Return the weights with the least squared error, held where they are."""
        power = damping * sums.squares.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
        held = power[:, None, None] * self.held.diag()
        wanted = sums.products + self.now @ held
        return torch.linalg.solve(sums.squares + held, wanted.transpose(1, 2)).transpose(1, 2)

    def best_damping(self, halves: Sequence[_Sums]) -> float:
        """Return the damping with which what is solved for one half of the rows errs least on the other."""
        if len(halves) < 2:
            return USUAL
        errors = {
            damping: sum(_error(self.solved(one, damping), other) for one, other in itertools.permutations(halves))
            for damping in DAMPINGS
        }
        return min(errors, key=lambda damping: errors[damping])


def _error(weights: Tensor, sums: _Sums) -> float:
    """Return the squared error of weights, less what no weights change."""
    return float(((weights @ sums.squares - 2 * sums.products) * weights).sum())


def _same_layers(layers: Sequence[Node], teacher: Graph) -> dict[Node, Node]:
    """Return the layers that the teacher has, too, and its own, in the order in which they run."""
    others = {node.name: node for node in learned_layers(teacher)}
    found = {}
    for layer in layers:
        other, weight = others.get(layer.name), argument(layer, "weight")
        if other is not None and other.target is layer.target and argument(other, "weight").target == weight.target:
            found[layer] = other
    return found


def is_solvable(graph: Graph, layer: Node) -> bool:
    """Say whether a layer's weight and bias are its own, and its operator is one that can be solved."""
    bias = bias_of(layer)
    own = bias is None or (reads_parameter(graph, layer, "bias") and read_once(bias))
    return own and read_once(argument(layer, "weight")) and has_columns(layer)


def kept_outputs(graph: Graph, teacher: Graph, layer: Node) -> Tensor:
    """Return which of the teacher's output channels a layer still has.

    Args:
        graph: whose `kept` tells.
        teacher: the graph it was cut out of; what it had lost by then itself is taken into account.
        layer: of the graph.

    Raises:
        SettingError: the teacher has lost some of them itself.
    """
    name = str(argument(layer, "weight").target)
    ours, theirs = (_indices(held, name, 1 if transposed_groups(layer) else 0) for held in (graph, teacher))
    place = {int(index): position for position, index in enumerate(theirs)}
    if not all(int(index) in place for index in ours):
        raise SettingError(
            f"the teacher has lost filters of {name} that the graph still has",
            where="teacher",
            remedy="give the graph that was cut as teacher",
        )
    return torch.tensor([place[int(index)] for index in ours])


def _indices(graph: Graph, name: str, dim: int) -> Sequence[int] | Tensor:
    kept = graph.kept.get(name)
    if kept is None or kept[dim] is None:
        return range(find(graph.module, name).shape[dim])
    return kept[dim]


def _outputs(value: Tensor, layer: Node) -> Tensor:
    """Return a layer's outputs as `[channels, rows and places]`, in the order of `columns`."""
    if is_product(layer):
        return value.reshape(-1, value.shape[-1]).T
    return value.transpose(0, 1).flatten(1)

"""SparseGPT: weights become zero column by column, and what each zero loses the columns after it make up for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from leanly.data import Split
from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.columns import as_rows, columns, damped, from_rows, has_columns, inverse_factor, summed_products
from leanly.graph.layers import (
    CONVOLUTIONS,
    layer_weights,
    learned_layers,
    no_weights,
    other_layers,
    transposed_groups,
)
from leanly.graph.nodes import argument
from leanly.graph.sweeping import Sweep
from leanly.graph.tensors import find
from leanly.graph.zeros import largest
from leanly.prune.labels import seen_rows
from leanly.prune.reading import check_seen, read_rows
from leanly.prune.sparse import STORAGE_ONLY, check_amount, check_divides, kept_of_every
from leanly.scalars import check_whole, is_number, names_of, rounded_down
from leanly.target import Target
from leanly.task import Task

BATCH, BLOCK = 32, 128


@dataclass(frozen=True)
class SparseGPT:
    """Set weights of convolutions and linear layers to zero so that their outputs change least, layer after layer.

    Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot". Needs rows,
    no labels and no training; train on with `Settings(keep_zeros=True)`.

    Args:
        sparsity: this share of the weights of each layer becomes zero; or give `pattern`.
        pattern: (n, m): of every m neighbouring inputs of an output, n stay.
        samples: rows, the first of `train` (of `validation` where there is no `train`).
        damping: share of the mean of its diagonal that is added to a layer's Hessian.
        dense: names of nodes whose weights stay as they are (see `graph.cost().nodes`).

    Raises:
        SettingError: a setting out of its range.
    """

    sparsity: float | None = None
    pattern: tuple[int, int] | None = None
    samples: int = 300
    damping: float = 0.01
    dense: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", check_amount(self.sparsity, self.pattern, "SparseGPT"))
        object.__setattr__(self, "dense", names_of(self.dense, name="dense", where="SparseGPT"))
        check_whole(self.samples, 1, name="samples", where="SparseGPT")
        if not (is_number(self.damping) and self.damping > 0):
            raise SettingError(f"damping is {self.damping!r}", where="SparseGPT", remedy="give a number above 0")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return the graph with zeros.

        Raises:
            SettingError: no weights, a name in `dense` that does not exist, or inputs that m does not divide.
            DataError: the task has no rows.
        """
        check_graph(graph, "SparseGPT")
        told = "what a zero changes is seen on rows, and there are none"
        split = seen_rows(task, told, where="SparseGPT", instead=", or use prune.Sparse")
        graph = graph.clone()
        mode = graph.training
        graph.eval()
        readers = layer_weights(graph, self.dense, "SparseGPT")
        layers = [layer for layer in readers.values() if has_columns(layer)]
        if not layers:
            known = "shorten dense; it knows linear layers and convolutions of images and sequences"
            raise no_weights(graph, "SparseGPT", known)
        if self.pattern is not None:
            check_divides(graph, layers, self.pattern[1], "SparseGPT")
        self._check_left(graph, layers)
        (running,), batches = read_rows([graph], split, BATCH, self.samples)
        sweep = Sweep(running, [inputs for inputs, _ in batches])
        first: dict[str, str] = {}
        for layer in learned_layers(graph):
            first.setdefault(str(argument(layer, "weight").target), layer.name)
        for name, earliest in first.items():
            if (reader := readers.get(name)) in layers:
                self._thin(graph, reader, sweep, earliest, split)
        graph.notes = (*graph.notes, f"prune.SparseGPT: {STORAGE_ONLY}")
        whole = [layer.name for layer in readers.values() if not has_columns(layer)] + other_layers(graph)
        if whole:
            graph.notes = (*graph.notes, f"prune.SparseGPT left as they are: {', '.join(whole)}")
        return graph.train(mode)

    def _check_left(self, graph: Graph, layers: Sequence[Node]) -> None:
        """Raise a SettingError where nothing would be left of a layer."""
        for layer in layers:
            shape = find(graph.module, str(argument(layer, "weight").target)).shape
            rows = shape[1 if transposed_groups(layer) else 0]
            inputs = shape.numel() // rows
            groups = argument(layer, "groups") if layer.target in CONVOLUTIONS else 1
            judged = rows // groups * min(inputs, BLOCK)
            if self.sparsity is not None and round(self.sparsity * judged) == judged:
                raise SettingError(
                    f"nothing would be left of {layer.name}",
                    where="SparseGPT",
                    remedy=f"use a sparsity of at most {rounded_down(1 - 1 / judged)}, or name it in dense",
                )

    def _thin(self, graph: Graph, layer: Node, sweep: Sweep, earliest: str, split: Split) -> None:
        """Thin the weight of a layer; others may read it, the earliest of them first."""
        weight = find(graph.module, str(argument(layer, "weight").target))
        hessians = torch.zeros((), device=graph.device)
        with torch.no_grad():
            for (given,) in sweep.values([argument(layer, "input").name], before=earliest):
                multiplied = columns(given, layer, weight.shape[2:])
                hessians = hessians + summed_products(multiplied, multiplied)
            check_seen(hessians, graph, layer, split, self.samples)
            # neighbouring inputs of a tap side by side, as patterns count them
            rows = as_rows(weight.double(), layer, len(hessians))
            order = torch.arange(rows.shape[2]).reshape(-1, math.prod(weight.shape[2:])).T.flatten()
            rows = rows[:, :, order]
            thinned = [
                self._thinned(one, hessian[order][:, order]) for one, hessian in zip(rows, hessians, strict=True)
            ]
            back = torch.argsort(order)
            weight.copy_(from_rows(torch.stack(thinned)[:, :, back], layer, weight.shape))

    def _thinned(self, rows: Tensor, hessian: Tensor) -> Tensor:
        """Thin the rows of a group, `[channels, columns]`.

        What a block of columns loses the columns behind it make up for at once, which is the same and takes less time.
        """
        rows, factor = rows.clone(), inverse_factor(damped(hessian, self.damping))
        step = BLOCK if self.pattern is None else self.pattern[1]
        block = max(BLOCK // step, 1) * step
        for start in range(0, rows.shape[1], block):
            stop = min(start + block, rows.shape[1])
            lost = torch.zeros_like(rows[:, start:stop])
            for column in range(start, stop):
                place = (column - start) % step
                if place == 0:
                    judged = slice(column, min(column + step, stop))
                    kept = self._kept((rows[:, judged] / factor.diagonal()[judged]).square())
                zero = ~kept[:, place]
                lost[:, column - start] = torch.where(zero, rows[:, column], 0) / factor[column, column]
                rows[:, column:stop] -= lost[:, column - start, None] * factor[column, column:stop]
                rows[:, column].masked_fill_(zero, 0)
            rows[:, stop:] -= lost @ factor[start:stop, stop:]
        return rows

    def _kept(self, losses: Tensor) -> Tensor:
        """Mark what stays of a block of columns: what is dear, over all rows or in each."""
        if self.pattern is not None:
            return kept_of_every(losses, *self.pattern)
        assert self.sparsity is not None
        return largest(losses, self.sparsity)

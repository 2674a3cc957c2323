"""Cluster: the weights of a layer share a few values, so that what is stored is which of them each one has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.layers import layer_weights, no_weights
from leanly.graph.tensors import find
from leanly.scalars import is_whole, names_of
from leanly.target import Target
from leanly.task import Task

MOST = 256
ROUNDS = 100


@dataclass(frozen=True)
class Cluster:
    """Let the weights of each convolution and linear layer share a few values; zeros stay zeros.

    k-means in one dimension (Han et al. 2016, "Deep Compression: Compressing Deep Neural Networks with Pruning, Trained
    Quantization and Huffman Coding"), from several starts, of which the one with the least squared error counts. What
    gets smaller is what is stored: a bundle codes which value each weight has, and runtimes compute in float as before.
    Training moves the values apart again: let it be the last pass.

    Args:
        count: values of a layer besides zero, 2 to 256.
        dense: names of nodes whose weights stay as they are (see `graph.cost().nodes`).

    Raises:
        SettingError: a count out of its range.
    """

    count: int = 16
    dense: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not is_whole(self.count, 2) or self.count > MOST:
            raise SettingError(f"count is {self.count!r}", where="Cluster", remedy=f"use an int from 2 to {MOST}")
        object.__setattr__(self, "dense", names_of(self.dense, name="dense", where="Cluster"))

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return the graph with shared values; neither data nor target are needed.

        Raises:
            SettingError: no weights, or a name in `dense` that does not exist.
        """
        check_graph(graph, "Cluster")
        graph = graph.clone()
        names = layer_weights(graph, self.dense, "Cluster")
        if not names:
            raise no_weights(graph, "Cluster", "shorten dense")
        with torch.no_grad():
            for name in names:
                weight = find(graph.module, name)
                weight.copy_(clustered(weight.detach(), self.count))
        return graph


def clustered(weight: Tensor, count: int) -> Tensor:
    """Return a tensor whose elements have one of so many values, the nearest ones; zeros stay zeros.

    Args:
        weight: of any shape.
        count: of values besides zero.
    """
    ordered = weight[weight != 0].double().sort().values
    if len(ordered.unique()) <= count:
        return weight
    found = [_means(ordered, start) for start in _starts(ordered, count)]
    centres = min(found, key=lambda centres: _error(ordered, centres)).to(weight.dtype)
    nearest = centres[torch.bucketize(weight, _middles(centres))]
    return torch.where(weight == 0, weight, nearest)


def _starts(ordered: Tensor, count: int) -> list[Tensor]:
    """Return values to begin with: evenly spaced, as many elements to each, and between the two."""
    evenly = torch.linspace(float(ordered[0]), float(ordered[-1]), count).to(ordered)
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count * len(ordered)
    equally = ordered[places.long()]
    return [evenly, equally, (evenly + equally) / 2]


def _error(ordered: Tensor, centres: Tensor) -> float:
    return float((ordered - centres[torch.bucketize(ordered, _middles(centres))]).square().sum())


def _means(ordered: Tensor, centres: Tensor) -> Tensor:
    """Move each centre to the mean of what is nearest to it, until none moves; one without anything stays."""
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    for _ in range(ROUNDS):
        inner = torch.searchsorted(ordered, _middles(centres))
        ends = torch.cat([inner.new_zeros(1), inner, inner.new_tensor([len(ordered)])])
        held = ends.diff()
        means = torch.where(held > 0, sums[ends].diff() / held.clamp(min=1), centres)
        if torch.equal(means, centres):
            break
        centres = means
    return centres


def _middles(centres: Tensor) -> Tensor:
    return (centres[1:] + centres[:-1]) / 2

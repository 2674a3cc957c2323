"""Criteria that read the weights alone; `random` reads nothing, and is what every other has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.layers import filters, learned_layers, spread_evenly, transposed_groups
from leanly.graph.nodes import argument, reads_tensor
from leanly.graph.norms import BATCH_NORM
from leanly.task import Task

BINS = 32
"""Of the histograms whose entropy is taken."""
SEED = 0
EMBEDDING = torch.ops.aten.embedding.default


def magnitude_l1(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return the absolute value of every weight; biases and scales of norms do not count.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets".

    Args:
        graph: whose parameters are judged.
        task: not used; no data is needed.
    """
    return {name: weight.abs() for name, weight in matrices(graph, "magnitude_l1")}


def batch_norm_scale(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return the absolute scale of each channel of a batch norm; nothing else counts.

    Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming".

    Args:
        graph: whose batch norms are read.
        task: not used; no data is needed.

    Raises:
        SettingError: no batch norm has a scale.
    """
    check_graph(graph, "importance 'batch_norm_scale'")
    scales = [argument(node, "weight") for node in graph.module.graph.nodes if node.target is BATCH_NORM]
    found = {
        str(scale.target): graph.module.get_parameter(str(scale.target)).detach().abs()
        for scale in scales
        if reads_tensor(scale)
    }
    if not found:
        raise SettingError(
            "the network has no batch norm with a scale",
            where="importance 'batch_norm_scale'",
            remedy="use leanly.prune.magnitude, which reads every weight",
        )
    return found


def geometric_median(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return for each filter its distance from all others of its layer: what lies in their middle can be replaced.

    He et al. 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration".

    Args:
        graph: whose parameters are judged.
        task: not used; no data is needed.
    """
    return _by_filter(graph, "geometric_median", _distances)


def weight_entropy(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return for each filter the entropy of its weights' histogram, in nats: weights that are alike say little.

    All filters of a layer share their bins. After Luo and Wu 2017, "An Entropy-based Pruning Method for CNN
    Compression", of weights instead of activations.

    Args:
        graph: whose parameters are judged.
        task: not used; no data is needed.
    """
    return _by_filter(graph, "weight_entropy", entropies)


def lamp(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return the square of every weight as a share of those of its layer that are no smaller.

    Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning".

    Args:
        graph: whose parameters are judged.
        task: not used; no data is needed.
    """
    found = {}
    for name, weight in matrices(graph, "lamp"):
        squares, order = weight.double().square().flatten().sort()
        left = squares.flip(0).cumsum(0).flip(0)
        scores = torch.empty_like(squares)
        scores[order] = squares / left.clamp(min=1e-300)
        found[name] = scores.reshape(weight.shape)
    return found


def random(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return random numbers, the same ones for the same shapes: the control for every other criterion.

    Args:
        graph: whose parameters are judged.
        task: not used; no data is needed.
    """
    generator = torch.Generator().manual_seed(SEED)
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in matrices(graph, "random")}


def entropies(rows: Tensor) -> Tensor:
    """Return the entropy of each row's histogram, over bins that all rows share.

    Args:
        rows: float `[rows, values]`.
    """
    low, high = float(rows.min()), float(rows.max())
    if not high > low:
        return rows.new_zeros(len(rows), dtype=torch.float64)
    places = ((rows.double() - low) / (high - low) * BINS).long().clamp(max=BINS - 1)
    counts = torch.zeros(len(rows), BINS, dtype=torch.float64).scatter_add_(
        1, places.cpu(), torch.ones(places.shape, dtype=torch.float64)
    )
    shares = counts / rows.shape[1]
    return -(shares * shares.clamp(min=1e-300).log()).sum(1)


def matrices(graph: Graph, criterion: str) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the parameters of two dimensions and more, with their names.

    Raises:
        SettingError: something else than a graph was given to the criterion.
    """
    check_graph(graph, f"importance {criterion!r}")
    for name, weight in graph.named_parameters():
        if weight.ndim > 1:
            yield name, weight.detach()


def _by_filter(graph: Graph, criterion: str, score: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Score the filters of each weight; the rows of a table are none."""
    weights = list(matrices(graph, criterion))
    nodes = graph.module.graph.nodes
    tables = {str(argument(node, "weight").target) for node in nodes if node.target is EMBEDDING}
    groups = {str(argument(layer, "weight").target): transposed_groups(layer) for layer in learned_layers(graph)}
    return {
        name: spread_evenly(score(filters(weight, groups.get(name, 0))), weight, groups.get(name, 0))
        for name, weight in weights
        if name in groups or name not in tables
    }


def _distances(filters: Tensor) -> Tensor:
    return torch.cdist(filters.double(), filters.double()).sum(1)

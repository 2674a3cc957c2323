"""Criteria that look at what runs through the network: entropy of activations, Fisher information, input Hessians."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from leanly.graph import Graph
from leanly.graph.columns import as_rows, columns, from_rows, has_columns, is_product, summed_products
from leanly.graph.layers import filters, learned_layers, spread_evenly, transposed_groups
from leanly.graph.nodes import argument
from leanly.graph.watching import Inside, Watched
from leanly.prune.labels import BATCH, ROWS, labelled, loss_of, rows_of
from leanly.prune.reading import check_seen, read_rows
from leanly.prune.weights import entropies
from leanly.task import Task

DAMPING = 0.01
"""Share of the mean of a Hessian's diagonal that is added to it."""
WIDEST = 4608
"""Inputs of a layer, above which only the diagonal of its Hessian is inverted."""


def activation_entropy(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return for each filter the entropy, in nats, of its mean activation over rows: what never changes says nothing.

    Luo and Wu 2017, "An Entropy-based Pruning Method for CNN Compression".

    Args:
        graph: whose parameters are judged, in evaluation mode.
        task: the first 512 rows of `train` (`validation` where there is no `train`); labels are not used.

    Raises:
        DataError: the task has no rows.
    """
    split = rows_of(graph, task, "activation_entropy")
    graph = graph.clone().eval()
    layers = _layers(graph)
    (running,), batches = read_rows([graph], split, BATCH, ROWS)
    inside = Inside(running, [layer.name for layer in layers])
    means: list[list[Tensor]] = [[] for _ in layers]
    with torch.no_grad():
        for inputs, targets in batches:
            values = inside(*(tensor.to(graph.device) for tensor in inputs))
            for kept, layer, value in zip(means, layers, values, strict=True):
                kept.append(_channels(layer, value, len(targets)).mean(2))
    found = {}
    for layer, kept in zip(layers, means, strict=True):
        name, weight = _weight(graph, layer)
        rows = torch.cat(kept).T
        check_seen(rows, graph, layer, split, ROWS)
        # each channel over its own range: how much it tells, not how loud it is
        own = (rows - rows.amin(1, keepdim=True)) / (rows.amax(1, keepdim=True) - rows.amin(1, keepdim=True)).clamp(
            1e-12
        )
        found[name] = spread_evenly(entropies(own), weight, transposed_groups(layer))
    return found


@torch.inference_mode(False)
@torch.enable_grad()
def fisher(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return for each filter the mean square, over rows, of the loss's slope along its output's scale.

    The diagonal of the Fisher information of gates behind the filters; where layers are coupled theirs add up. Liu et
    al. 2021, "Group Fisher Pruning for Practical Network Compression"; Kwon et al. 2022, "A Fast Post-Training Pruning
    Framework for Transformers".

    Args:
        graph: whose parameters are judged, in evaluation mode.
        task: its loss, a mean over rows, and the first 512 rows of `train` (`validation` where there is no `train`).

    Raises:
        DataError: no task, no labelled data, or a loss that can't be computed on it.
    """
    task, split = labelled(graph, task, "fisher")
    graph = graph.clone().eval()
    for parameter in graph.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_()
    layers = _layers(graph)
    if not layers:
        return {}
    (running,), batches = read_rows([graph], split, BATCH, ROWS)
    watched = Watched(running, [layer.name for layer in layers])
    outputs_of = [len(filters(_weight(graph, layer)[1], transposed_groups(layer))) for layer in layers]
    total = [torch.zeros(count, dtype=torch.float64) for count in outputs_of]
    for inputs, targets in batches:
        outputs = watched.flat(*(tensor.to(graph.device) for tensor in inputs))
        values = outputs[len(graph.outputs) :]
        loss = loss_of(graph, task, split, outputs[: len(graph.outputs)], targets)
        slopes = torch.autograd.grad(loss * len(targets), values, allow_unused=True)
        for sums, layer, value, slope in zip(total, layers, values, slopes, strict=True):
            if slope is not None:
                along = _channels(layer, value.detach() * slope, len(targets)).sum(2)
                sums += along.double().square().sum(0).cpu()
    found: dict[str, Tensor] = {}
    for sums, layer in zip(total, layers, strict=True):
        name, weight = _weight(graph, layer)
        check_seen(sums, graph, layer, split, ROWS)
        found[name] = found.get(name, torch.zeros(())) + spread_evenly(sums, weight, transposed_groups(layer))
    return found


def second_order(graph: Graph, task: Task | None = None) -> dict[str, Tensor]:
    """Return the squared error of a layer's outputs where a weight leaves and those beside it make up for it.

    `w^2 / [H^-1]` with the Hessian of the layer's inputs. Hassibi and Stork 1992, "Second Order Derivatives for Network
    Pruning: Optimal Brain Surgeon", layer by layer as in Frantar and Alistarh 2022, "Optimal Brain Compression".

    Args:
        graph: whose parameters are judged, in evaluation mode.
        task: the first 512 rows of `train` (`validation` where there is no `train`); labels are not used.

    Raises:
        DataError: the task has no rows.
    """
    split = rows_of(graph, task, "second_order")
    graph = graph.clone().eval()
    layers = [layer for layer in _layers(graph) if has_columns(layer)]
    names = list(dict.fromkeys(argument(layer, "input").name for layer in layers))
    (running,), batches = read_rows([graph], split, BATCH, ROWS)
    inside = Inside(running, names)
    hessians: dict[str, Tensor] = {}
    with torch.no_grad():
        for inputs, _ in batches:
            values = dict(zip(names, inside(*(tensor.to(graph.device) for tensor in inputs)), strict=True))
            for layer in layers:
                seen = _hessian(layer, _weight(graph, layer)[1], values[argument(layer, "input").name])
                hessians[layer.name] = hessians.get(layer.name, torch.zeros_like(seen)) + seen
    found: dict[str, Tensor] = {}
    for layer in layers:
        name, weight = _weight(graph, layer)
        check_seen(hessians[layer.name], graph, layer, split, ROWS)
        rows = as_rows(weight.double(), layer, len(hessians[layer.name]))
        cost = rows.square() / _inverse_diagonal(hessians[layer.name])[:, None, :]
        found[name] = found.get(name, torch.zeros(())) + from_rows(cost, layer, weight.shape)
    return found


def _layers(graph: Graph) -> list[Node]:
    """Return the layers that compute on values of rows: one that reads a single vector has none."""
    shapes = graph.shapes(2)
    return [layer for layer in learned_layers(graph) if len(shapes[layer.name]) > 1]


def _weight(graph: Graph, layer: Node) -> tuple[str, Tensor]:
    name = str(argument(layer, "weight").target)
    return name, graph.module.get_parameter(name).detach()


def _channels(layer: Node, value: Tensor, rows: int) -> Tensor:
    """Return a layer's output as `[rows, channels, places]`; products of matrices see the places of all rows as one."""
    if is_product(layer):
        first = rows if value.numel() % (rows * value.shape[-1]) == 0 else len(value)
        return value.reshape(first, -1, value.shape[-1]).transpose(1, 2)
    return value.flatten(2)


def _hessian(layer: Node, weight: Tensor, value: Tensor) -> Tensor:
    """Sum the outer products of what a layer's columns are multiplied with: `[groups, columns, columns]`."""
    multiplied = columns(value, layer, weight.shape[2:])
    return summed_products(multiplied, multiplied)


def _inverse_diagonal(hessian: Tensor) -> Tensor:
    """Return the diagonal of each group's inverse; inputs that are always zero cost nothing."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    damping = DAMPING * diagonal.mean(1, keepdim=True) + 1e-12
    if hessian.shape[1] > WIDEST:
        return 1 / (diagonal + damping)
    damped = hessian + torch.diag_embed(damping.expand_as(diagonal))
    return torch.linalg.inv(damped).diagonal(dim1=1, dim2=2)

"""Destinations: where a layer's outputs arrive behind its batch norms, alone or added to another branch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from leanly.graph import Graph
from leanly.graph.nodes import argument, reads_tensor
from leanly.graph.tensors import find

aten = torch.ops.aten
SUM, NORM, DROPOUT = aten.add.Tensor, aten.batch_norm.default, aten.dropout.default
LEAST_SCALE = 1e-3
"""Of the largest scale of a norm: what is smaller can't be turned back."""


@dataclass(frozen=True)
class Destination:
    """`total` is a layer's outputs behind some batch norms, plus `other`.

    Args:
        total: the last norm, or the sum.
        other: what is added; None where nothing is.
        norms: in the order in which they run.
    """

    total: Node
    other: Node | None
    norms: tuple[Node, ...]

    def before_norms(self, graph: Graph, values: Tensor, instead: Tensor) -> Tensor:
        """Return what has to go into the norms so that values come out of them, as they run in evaluation mode.

        Args:
            graph: whose statistics count.
            values: `[channels, places]`.
            instead: returned for channels that a norm all but silences.
        """
        for norm in reversed(self.norms):
            scale, shift = _affine(graph, norm)
            usable = scale.abs() > LEAST_SCALE * scale.abs().max()
            turned = (values - shift[:, None]) / torch.where(usable, scale, 1.0)[:, None]
            values = torch.where(usable[:, None], turned, instead)
        return values


def destination(layer: Node, *, channels_second: bool) -> Destination | None:
    """Return where a layer's outputs arrive if nothing else reads them on the way; None where no norm and no sum is.

    Args:
        layer: any.
        channels_second: whether its channels lie where a batch norm looks for them.
    """
    node, norms = layer, []
    while len(node.users) == 1:
        (user,) = node.users
        if user.target is SUM and (other := _other(user, node)) is not None:
            return Destination(user, other, tuple(norms))
        if user.target is NORM and channels_second and _is_stored(user, node):
            norms.append(user)
        elif user.target is not DROPOUT:
            break
        node = user
    return Destination(norms[-1], None, tuple(norms)) if norms else None


def _is_stored(norm: Node, node: Node) -> bool:
    """Say whether a norm of a node has running statistics, and all it does follows from what is stored."""
    statistics = [argument(norm, name) for name in ("running_mean", "running_var")]
    affine = [argument(norm, name) for name in ("weight", "bias")]
    stored = all(map(reads_tensor, statistics)) and all(one is None or reads_tensor(one) for one in affine)
    return stored and argument(norm, "input") is node


def _other(total: Node, node: Node) -> Node | None:
    """Return what a node is added to, None where that is not computed or not added as it is."""
    sides = [argument(total, name) for name in ("self", "other")]
    others = [side for side in sides if isinstance(side, Node) and side is not node and side.op != "get_attr"]
    return others[0] if len(others) == 1 and argument(total, "alpha") == 1 else None


def _affine(graph: Graph, norm: Node) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift of each channel, in evaluation mode."""

    def stored(name: str) -> Tensor | None:
        node = argument(norm, name)
        return None if node is None else find(graph.module, str(node.target)).detach().double()

    mean, variance, weight, bias = map(stored, ("running_mean", "running_var", "weight", "bias"))
    assert mean is not None and variance is not None, "they are stored"
    scale = (variance + argument(norm, "eps")).rsqrt() * (1.0 if weight is None else weight)
    return scale, (0.0 if bias is None else bias) - mean * scale

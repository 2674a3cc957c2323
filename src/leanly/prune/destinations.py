"""Destinations: where a layer's outputs arrive behind its batch norms, alone or added to another branch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from leanly.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.norms import is_stored_norm, norm_of

aten = torch.ops.aten
SUM, DROPOUT = aten.add.Tensor, aten.dropout.default
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
            mean, factor, shift = (part[:, None].to(values.dtype) for part in norm_of(graph.module, norm))
            usable = factor.abs() > LEAST_SCALE * factor.abs().max()
            turned = (values - shift) / torch.where(usable, factor, 1.0) + mean
            values = torch.where(usable, turned, instead)
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
        if channels_second and is_stored_norm(user) and argument(user, "input") is node:
            norms.append(user)
        elif user.target is not DROPOUT:
            break
        node = user
    return Destination(norms[-1], None, tuple(norms)) if norms else None


def _other(total: Node, node: Node) -> Node | None:
    """Return what a node is added to, None where that is not computed or not added as it is."""
    sides = [argument(total, name) for name in ("self", "other")]
    others = [side for side in sides if isinstance(side, Node) and side is not node and side.op != "get_attr"]
    return others[0] if len(others) == 1 and argument(total, "alpha") == 1 else None

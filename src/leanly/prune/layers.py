"""Layers: the pass that takes whole residual blocks and transformer layers out of a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.blocks import Block, find_blocks
from leanly.graph.shortening import without_blocks
from leanly.prune.importance import magnitude, resolve_importance
from leanly.scalars import check_whole
from leanly.target import Target
from leanly.task import Task


@dataclass(frozen=True)
class Layers:
    """Take out the least important of the blocks that have one way in and one way out of the same shape.

    A block is a residual block of a CNN or a layer of a transformer (attention with its feed-forward); those that
    change the shape stay. What follows reads what went in. Put `leanly.training.BatchNorm` behind this pass where
    there is batch norm.

    Args:
        count: how many.
        importance: `leanly.prune.magnitude`, `gradient`, `skipping` (what changes without the block, measured; the
            best of the three), another criterion of that signature, or its name. A block counts as much as all elements
            of its parameters together; of blocks that count alike the later one leaves.

    Raises:
        SettingError: a count below 1, or an importance that is unknown.
    """

    count: int = 1
    importance: Callable[[Graph, Task | None], dict[str, Any]] | str = magnitude

    def __post_init__(self) -> None:
        check_whole(self.count, 1, name="count", where="Layers")
        object.__setattr__(self, "importance", resolve_importance(self.importance))

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a shorter graph; `kept` says None for the parameters that are gone.

        Raises:
            SettingError: there are fewer layers than shall leave.
            DataError: the importance needs labelled data, and there is none.
        """
        check_graph(graph, "Layers")
        blocks = find_blocks(graph)
        if self.count > len(blocks):
            raise SettingError(
                f"{self.count} layers are to be removed, and the network has {len(blocks)} that can be",
                where="Layers.count",
                remedy=f"use count={len(blocks)} or less"
                if blocks
                else "use leanly.prune.Channels: no residual block or "
                "transformer layer of one input and output of the same shape was found",
            )
        assert callable(self.importance)
        scores = _scores(blocks, self.importance(graph, task))
        order = sorted(range(len(blocks)), key=lambda place: (scores[place], -place))
        return without_blocks(graph, [blocks[place] for place in sorted(order[: self.count])])


def _scores(blocks: tuple[Block, ...], saliency: dict[str, Tensor]) -> list[float]:
    scores = []
    for block in blocks:
        score = sum(float(saliency[name].double().sum()) for name in block.tensors if name in saliency)
        if not math.isfinite(score):
            raise SettingError(
                f"the importance of a layer is {score}",
                where=block.source,
                remedy="give an importance whose saliencies are finite",
            )
        scores.append(score)
    return scores

"""Sparse: single weights become zero; the shapes stay, so that only what is stored gets smaller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph, check_graph
from leanly.graph.layers import layer_weights, no_weights, other_layers, transposed_groups
from leanly.graph.nodes import argument
from leanly.graph.tensors import find
from leanly.graph.zeros import largest
from leanly.prune.importance import magnitude, resolve_importance
from leanly.prune.scores import checked
from leanly.scalars import is_number, is_whole, names_of, rounded_down
from leanly.suggest import suggestion
from leanly.target import Target
from leanly.task import Task

SCOPES = ("layer", "network")
STORAGE_ONLY = "zeros take less storage; no runtime here skips them"


@dataclass(frozen=True)
class Sparse:
    """Set the least important weights of convolutions and linear layers to zero.

    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks"; N:M patterns as in Zhou et
    al. 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch". Train on with
    `Settings(keep_zeros=True)`; a second `Sparse` with a higher share takes more (Zhu and Gupta 2017, "To prune, or not
    to prune"). No CPU runtime here is faster by it: what gets smaller is what an entropy coder makes of the weights.

    Args:
        sparsity: this share of the weights becomes zero; or give `pattern` or `threshold`.
        pattern: (n, m): of every m neighbouring inputs of an output, n stay.
        threshold: weights of less importance become zero: with `importance=magnitude_l1` those nearer to zero than it.
        importance: `leanly.prune.magnitude`, another criterion of that signature, or its name.
        scope: "layer" takes the share of each layer, "network" the least important anywhere (use `lamp` there).
        dense: names of nodes whose weights stay as they are (see `graph.cost().nodes`).

    Raises:
        SettingError: a setting out of its range.
    """

    sparsity: float | None = None
    pattern: tuple[int, int] | None = None
    importance: Callable[[Graph, Task | None], dict[str, Any]] | str = magnitude
    scope: str = "layer"
    dense: tuple[str, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is None:
            object.__setattr__(self, "pattern", check_amount(self.sparsity, self.pattern, "Sparse"))
        elif self.sparsity is not None or self.pattern is not None:
            raise SettingError(
                "a threshold is given beside sparsity or pattern", where="Sparse", remedy="give one of the three"
            )
        elif not (is_number(self.threshold) and 0 < self.threshold < float("inf")):
            raise SettingError(f"threshold={self.threshold!r}", where="Sparse", remedy="use a number above 0")
        if self.scope not in SCOPES:
            raise SettingError(f"scope={self.scope!r}", where="Sparse", remedy=suggestion(self.scope, SCOPES))
        object.__setattr__(self, "dense", names_of(self.dense, name="dense", where="Sparse"))
        object.__setattr__(self, "importance", resolve_importance(self.importance))

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return the graph with zeros.

        Raises:
            SettingError: no weights, a name in `dense` that does not exist, inputs that m does not divide, or a layer
                that would be left with nothing.
            DataError: the importance needs labelled data, and there is none.
        """
        check_graph(graph, "Sparse")
        assert callable(self.importance)
        name = getattr(self.importance, "__name__", type(self.importance).__name__)
        scores = checked(graph, self.importance(graph, task), name)
        graph = graph.clone()
        weights = layer_weights(graph, self.dense, "Sparse")
        held = {name: scores[name].to(find(graph.module, name).device) for name in weights if name in scores}
        if not held:
            raise no_weights(graph, "Sparse", "shorten dense, or use another importance")
        if self.pattern is not None:
            check_divides(graph, [weights[name] for name in held], self.pattern[1], "Sparse")
        kept = self._kept(held, weights)
        self._check_left(kept, held)
        with torch.no_grad():
            for name, mask in kept.items():
                find(graph.module, name).masked_fill_(~mask, 0)
        graph.notes = (*graph.notes, f"prune.Sparse: {STORAGE_ONLY}")
        if left := other_layers(graph):
            graph.notes = (*graph.notes, f"prune.Sparse left as they are: {', '.join(left)}")
        return graph

    def _kept(self, scores: dict[str, Tensor], readers: dict[str, Node]) -> dict[str, Tensor]:
        if self.pattern is not None:
            return {name: _of_every(score, *self.pattern, readers[name]) for name, score in scores.items()}
        if self.threshold is not None:
            return {name: score >= self.threshold for name, score in scores.items()}
        assert self.sparsity is not None
        if self.scope == "layer":
            return {name: largest(score, self.sparsity) for name, score in scores.items()}
        together = largest(torch.cat([score.flatten().cpu() for score in scores.values()]), self.sparsity)
        pieces = together.split([score.numel() for score in scores.values()])
        return {
            name: piece.reshape(score.shape).to(score.device)
            for (name, score), piece in zip(scores.items(), pieces, strict=True)
        }

    def _check_left(self, kept: dict[str, Tensor], scores: dict[str, Tensor]) -> None:
        emptied = [name for name, mask in kept.items() if not mask.any()]
        if not emptied:
            return
        if self.threshold is not None:
            least = min(float(scores[name].max()) for name in emptied)
            remedy = (
                f"use a threshold of at most {rounded_down(least)}" if least > 0 else "no threshold leaves anything"
            )
        elif self.scope == "layer":
            remedy = f"use a sparsity of at most {rounded_down(1 - 1 / min(kept[name].numel() for name in emptied))}"
        else:
            remedy = f'{_fitting(scores)}use scope="layer"'
        raise SettingError(
            f"nothing would be left of {', '.join(emptied[:3])}{' and others' if len(emptied) > 3 else ''}",
            where="Sparse",
            remedy=f"{remedy}, or name the nodes that read them in dense",
        )


def _fitting(scores: dict[str, Tensor]) -> str:
    """Name the largest sparsity of the whole network that leaves something of every layer."""
    least = min(float(score.max()) for score in scores.values())
    below = sum(int((score < least).sum()) for score in scores.values())
    share = below / sum(score.numel() for score in scores.values())
    return f"use a sparsity of at most {rounded_down(share)}, or " if share > 0 else ""


def check_amount(sparsity: float | None, pattern: tuple[int, int] | None, where: str) -> tuple[int, int] | None:
    """Check that a share or a pattern is given, and return the pattern.

    Raises:
        SettingError: neither or both are given, or one is out of its range.
    """
    if (sparsity is None) == (pattern is None):
        raise SettingError(
            "both sparsity and pattern are given" if pattern else "neither sparsity nor pattern is given",
            where=where,
            remedy="give one: sparsity=0.8, or pattern=(2, 4)",
        )
    if sparsity is not None and not (is_number(sparsity) and 0 < sparsity < 1):
        raise SettingError(f"sparsity={sparsity!r}", where=where, remedy="use a float between 0 and 1")
    if pattern is None:
        return None
    numbers = tuple(pattern) if isinstance(pattern, tuple | list) else ()
    if len(numbers) != 2 or not all(is_whole(number, 1) for number in numbers) or numbers[0] >= numbers[1]:
        raise SettingError(f"pattern={pattern!r}", where=where, remedy="use (n, m), n below m: (2, 4)")
    return numbers[0], numbers[1]


def check_divides(graph: Graph, layers: Sequence[Node], m: int, where: str) -> None:
    """Raise a SettingError where groups of m inputs don't fill a layer."""
    odd = {}
    for layer in layers:
        shape, groups = find(graph.module, str(argument(layer, "weight").target)).shape, transposed_groups(layer)
        inputs = shape[0] // groups if groups else shape[1]
        if inputs % m:
            odd[layer.name] = inputs
    if odd:
        told = ", ".join(f"{inputs} of {name}" for name, inputs in odd.items())
        raise SettingError(
            f"{m} does not divide the inputs: {told}",
            where=f"{where}.pattern",
            remedy=f"add dense={tuple(odd)!r}, or use another pattern",
        )


def kept_of_every(scores: Tensor, n: int, m: int) -> Tensor:
    """Mark the n highest of every m neighbours along the last dimension, which m divides."""
    grouped = scores.reshape(*scores.shape[:-1], -1, m)
    kept = torch.zeros_like(grouped, dtype=torch.bool)
    return kept.scatter_(-1, grouped.topk(n, -1).indices, True).reshape(scores.shape)


def _of_every(scores: Tensor, n: int, m: int, layer: Node) -> Tensor:
    """Mark the n highest of every m neighbours along the inputs of each output, tap by tap."""
    inputs = 0 if transposed_groups(layer) else 1
    return kept_of_every(scores.movedim(inputs, -1), n, m).movedim(-1, inputs)

"""Smaller questions with the same answer: dimensions that an operator only passes on are cut to two indices.

A concatenation of 224 x 224 images along channels moves as one of 2 x 2 images does. The answer is then found on few
ids, and is the same for many nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from leanly.graph.coupling.movement import Link, Movement, Shape, find_movement

_ALL_PASS = {
    *("permute", "transpose", "t", "mT", "numpy_T", "movedim", "moveaxis", "swapaxes", "swapdims"),
    *("unsqueeze", "squeeze", "stack", "contiguous", "clone", "alias", "detach"),
}
_ALONG_DIM = {
    *("cat", "concat", "concatenate", "split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk"),
    *(
        "unsafe_split",
        "unsafe_split_with_sizes",
        "slice",
        "narrow",
        "select",
        "unbind",
        "flip",
        "roll",
        "slice_scatter",
    ),
    *("unflatten", "repeat_interleave"),
}
RESHAPES = {"reshape", "view", "_unsafe_view", "_reshape_copy", "view_copy"}
PADS = {"pad", "constant_pad_nd"}


@dataclass(frozen=True)
class Question:
    """An operator with its arguments, `Slot` standing for tensors, and the shapes of those tensors.

    Args:
        passive: for each tensor the dimensions that are passed on and were made smaller.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    shapes: tuple[Shape, ...]
    passive: tuple[frozenset[int], ...] = ()

    @property
    def key(self) -> tuple[Any, ...]:
        """What the answer depends on."""
        return (self.target, repr(self.args), repr(self.kwargs), self.shapes)


def operator_name(target: Any) -> str:
    """Return "conv2d" for aten.conv2d.default; empty for what is no operator."""
    schema = getattr(target, "_schema", None)
    return schema.name.partition("::")[2] if schema is not None else ""


def bound(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments of an operator by the names of its schema, defaults included."""
    declared = target._schema.arguments
    values = {item.name: item.default_value for item in declared}
    values.update(zip((item.name for item in declared), args, strict=False))
    return {**values, **kwargs}


def touched_dims(question: Question, output: Shape) -> list[set[int]] | None:
    """Name, for each tensor, the dimensions along which the operator moves; None where that is not known."""
    name = operator_name(question.target)
    shapes = question.shapes
    if name in _ALL_PASS:
        return [set() for _ in shapes]
    given = bound(question.target, question.args, dict(question.kwargs))
    if name in _ALONG_DIM and ("dim" in given or "dims" in given):
        dims = given.get("dims", given.get("dim"))
        dims = [dims] if isinstance(dims, int) else dims
        if not dims:
            return None
        return [{dim % max(len(shape), 1) for dim in dims} for shape in shapes]
    if name == "select_scatter":
        return [{given["dim"] % len(shapes[0])}, set()]
    if name == "flatten":
        rank = max(len(shapes[0]), 1)
        return [set(range(given["start_dim"] % rank, given["end_dim"] % rank + 1))]
    if name in PADS:
        rank = len(shapes[0])
        return [{rank - 1 - place // 2 for place, amount in enumerate(given["pad"]) if amount}]
    if name == "expand":
        lead = len(output) - len(shapes[0])
        return [{dim for dim, size in enumerate(shapes[0]) if size != output[lead + dim]}]
    if name in RESHAPES:
        return [set(range(len(shapes[0]))) - {dim for dim, _ in same_dims(shapes[0], output)}]
    return None


def same_dims(one: Shape, other: Shape) -> list[tuple[int, int]]:
    """Pair the dimensions that a reshape leaves as they are: their rows before and after hold as many elements."""
    if 0 in one or 0 in other:
        return []
    pairs = []
    before = {math.prod(other[:dim]): dim for dim in reversed(range(len(other))) if other[dim] != 1}
    for dim, size in enumerate(one):
        place = before.get(math.prod(one[:dim]))
        if size != 1 and place is not None and other[place] == size:
            pairs.append((dim, place))
    return pairs


def shrunk(question: Question, output: Shape) -> Question:
    """Return the smaller question; the same one where nothing is known to be passed on.

    Args:
        output: shape of the first result.
    """
    touched = touched_dims(question, output)
    if touched is None:
        return question
    passive = tuple(
        frozenset(range(len(shape))) - frozenset(dims) for shape, dims in zip(question.shapes, touched, strict=True)
    )
    shapes = tuple(
        tuple(min(size, 2) if dim in free else size for dim, size in enumerate(shape))
        for shape, free in zip(question.shapes, passive, strict=True)
    )
    args = question.args
    name = operator_name(question.target)
    if name in RESHAPES:
        free = {place for _, place in same_dims(question.shapes[0], output)}
        args = (args[0], [min(size, 2) if place in free else size for place, size in enumerate(output)])
    if name == "expand":
        lead = len(output) - len(question.shapes[0])
        args = (args[0], [-1 if place - lead in passive[0] else size for place, size in enumerate(output)])
    return replace(question, args=args, shapes=shapes, passive=passive)


class Answers:
    """Finds movements and keeps them: blocks of a network ask the same again and again."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Movement | None] = {}

    def movement(self, question: Question, output: Shape) -> Movement | None:
        """Return how an operator moves its inputs, None where it does anything else.

        Args:
            output: shape of the first result.
        """
        return self.answered(question, output)[1]

    def answered(self, question: Question, output: Shape) -> tuple[Question, Movement | None]:
        """Return the answer and the question it was found with: the smaller one, or the whole one where that misled."""
        small = shrunk(question, output)
        found = self._found(small)
        if found is None or not any(small.passive):
            return small, found
        widened = [_widened(link, small) for link in found.links]
        links = [link for link in widened if link is not None]
        if len(links) == len(widened) and not any(dim in small.passive[source] for source, dim, _ in found.read):
            return small, replace(found, links=tuple(links))
        return question, self._found(question)

    def _found(self, question: Question) -> Movement | None:
        if question.key not in self._known:
            self._known[question.key] = find_movement(
                question.target, question.args, dict(question.kwargs), list(question.shapes)
            )
        return self._known[question.key]


def _widened(link: Link, question: Question) -> Link | None:
    """Read a link of the small question as one of the large; None where a passive dimension was not passed on."""
    passive = question.passive[link.source]
    if not passive.intersection(link.inputs):
        return link
    assert link.index is not None
    size = question.shapes[link.source][link.inputs[0]]
    if len(link.inputs) > 1 or len(link.outputs) > 1 or link.index[0].tolist() != list(range(size)):
        return None
    return replace(link, index=None)

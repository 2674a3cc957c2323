"""The proof of a rewritten operator: on ids that stay it gives what the old one gave, restricted to what stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from leanly.graph import tensors
from leanly.graph.coupling.movement import Slot, ids_of, run_on_ids
from leanly.graph.coupling.shrinking import RESHAPES, Question, operator_name
from leanly.graph.coupling.sizes import Sizes, Unfit


def prove(node: fx.Node, sizes: Sizes) -> None:
    """Check a node that rearranges, after its literals were rewritten.

    Raises:
        Unfit: the rewritten operator moves something else.
    """
    wiring = sizes.wiring
    question, sources = wiring.moved[node.name]
    shapes = wiring.shapes(node)
    whole = all(sizes.is_whole(source.name, dim) for source in sources for dim in range(len(wiring.shape(source))))
    if whole and all(sizes.shape(node.name, output) == shape for output, shape in enumerate(shapes)):
        return
    small, movement = wiring.answers.answered(question, shapes[0])
    assert movement is not None
    free = {(link.output, link.outputs[0]) for link in movement.links if link.index is None}
    passive = small.passive or [frozenset()] * len(sources)
    ids = ids_of(list(small.shapes))
    kept = [
        _restricted(tensor, [None if dim in passes else sizes.stays(source.name, dim) for dim in range(tensor.ndim)])
        for tensor, source, passes in zip(ids, sources, passive, strict=True)
    ]
    expected = [
        _restricted(
            tensor,
            [None if (output, axis) in free else sizes.stays(node.name, axis, output) for axis in range(tensor.ndim)],
        )
        for output, tensor in enumerate(run_on_ids(small.target, small.args, dict(small.kwargs), ids))
    ]
    target, args, kwargs = _question_after(
        node, question, sizes, expected[0].shape, {axis for output, axis in free if output == 0}
    )
    try:
        found = run_on_ids(target, args, kwargs, kept)
    except Exception as error:  # whatever an operator says of sizes that do not fit
        raise Unfit(node.name) from error
    if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
        raise Unfit(node.name)


def _restricted(tensor: Tensor, stays: list[np.ndarray | None]) -> Tensor:
    for dim, mask in enumerate(stays):
        if mask is not None and not mask.all():
            tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(mask)))
    return tensor


def _question_after(
    node: fx.Node, question: Question, sizes: Sizes, output: torch.Size, passed: set[int]
) -> tuple[Any, Any, dict[str, Any]]:
    """Return what the rewritten node calls, tensors replaced by slots, sizes made as small as those of the ids."""
    wiring = sizes.wiring
    if question.target is not node.target and "_as" in operator_name(node.target):
        target, args, kwargs = question.target, question.args, {}
    else:
        number = iter(range(len(question.shapes)))

        def slot(item: Any) -> Any:
            if not isinstance(item, fx.Node):
                return item
            if item.name not in wiring.results:
                return tensors.find(node.graph.owning_module, str(item.target)) if item.op == "get_attr" else item  # type: ignore[arg-type]
            return Slot(next(number)) if wiring.is_tensor(item) else sizes.number(item)

        target = node.target
        args, kwargs = map_aggregate((node.args, node.kwargs), slot)  # type: ignore[misc]
    name = operator_name(target)
    if name in RESHAPES:
        args = (args[0], list(output))
    if name == "expand":
        args = (args[0], [-1 if axis in passed else size for axis, size in enumerate(output)])
    return target, args, dict(kwargs)

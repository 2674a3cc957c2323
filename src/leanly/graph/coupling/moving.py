"""The rule for operators that only rearrange: what was found on ids, said in variables."""

from __future__ import annotations

import numpy as np
from torch import fx

from leanly.graph.coupling.movement import Link, Movement
from leanly.graph.coupling.shrinking import PADS, Question, operator_name, touched_dims
from leanly.graph.coupling.variables import FROZEN, Array, Dims
from leanly.graph.coupling.wiring import Wiring

_SIZES = {
    *("reshape", "view", "_unsafe_view", "_reshape_copy", "expand", "unflatten", "repeat", "tile", "flatten"),
    *("squeeze", "unsqueeze"),
}
"""Operators whose sizes follow a cut; any other number that is computed when the graph runs keeps a dimension whole."""


def move(
    node: fx.Node, wiring: Wiring, question: Question | None = None, sources: list[fx.Node] | None = None
) -> list[Dims] | None:
    """Return the dimensions of what a rearranging operator gives; None where it does anything else.

    Args:
        question, sources: what stands for the node, where that is not the node as it is.
    """
    if question is None or sources is None:
        question, sources = wiring.question(node)
    if not sources:
        return None
    shapes = wiring.shapes(node)
    movement = wiring.answers.movement(question, shapes[0])
    if movement is None:
        return None
    wiring.moved[node.name] = question, sources
    inputs = [wiring.dims(source) for source in sources]
    for source, dim, index in movement.read:
        wiring.hold(node, inputs[source][dim][index : index + 1])
    outputs = _Outputs(shapes, wiring)
    for link in movement.links:
        outputs.link(link, inputs[link.source])
    symbolic = wiring.computes_sizes(node)
    if symbolic and operator_name(node.target) not in _SIZES:
        for dims, along in zip(inputs, _moved_dims(question, shapes[0]), strict=True):
            for dim in along:
                wiring.hold(node, dims[dim])
    return outputs.finished(movement, _computed_axes(node, len(shapes[0])) if symbolic else set())


def _moved_dims(question: Question, output: tuple[int, ...]) -> list[set[int]]:
    """Name the dimensions that may move for other sizes: all that a padding reaches, also where it adds nothing now."""
    if operator_name(question.target) in PADS:
        rank, amounts = len(question.shapes[0]), question.args[1]
        return [set(range(rank - len(amounts) // 2, rank))]
    return touched_dims(question, output) or [set(range(len(shape))) for shape in question.shapes]


def _computed_axes(node: fx.Node, rank: int) -> set[int]:
    """Name the dimensions of the output whose size is computed when the graph runs; all, where it does not say."""
    sizes = node.args[1] if len(node.args) > 1 else None
    if not isinstance(sizes, tuple | list) or len(sizes) != rank:
        return set(range(rank))
    return {axis for axis, size in enumerate(sizes) if isinstance(size, fx.Node)}


class _Outputs:
    """Variables of the results while links are applied; -1 is not known yet."""

    def __init__(self, shapes: list[tuple[int, ...]], wiring: Wiring) -> None:
        self.variables = wiring.variables
        self.dims: list[list[Array]] = [[np.full(size, -1) for size in shape] for shape in shapes]

    def link(self, link: Link, inputs: Dims) -> None:
        outputs = self.dims[link.output]
        if link.index is None or (len(link.inputs) == 1 and len(link.outputs) == 1):
            dim, axis = link.inputs[0], link.outputs[0]
            index = link.index[0] if link.index is not None else np.arange(len(inputs[dim]))
            self._assign(outputs[axis], np.where(index >= 0, inputs[dim][index], -1))
            return
        self._join(link, link.index, inputs, outputs)

    def _assign(self, known: Array, values: Array) -> None:
        """Give a dimension its variables; where it has some already, the two are the same."""
        both = (known >= 0) & (values >= 0)
        if both.any():
            self.variables.same(known[both], values[both])
        new = (known < 0) & (values >= 0)
        known[new] = values[new]

    def _join(self, link: Link, index: tuple[Array, ...], inputs: Dims, outputs: list[Array]) -> None:
        """Several dimensions become one, one becomes several, or several become others, through a whole between."""
        there = index[0].reshape(-1) >= 0
        flat = [np.where(there, table.reshape(-1), 0) for table in index]
        if len(link.inputs) == 1:
            whole = np.where(there, inputs[link.inputs[0]][flat[0]], -1)
        else:
            whole = np.where(there, self.variables.fresh(len(there)), -1)
            sizes = [len(inputs[dim]) for dim in link.inputs]
            place = np.ravel_multi_index(flat, sizes)[there]
            grid = np.full(int(np.prod(sizes)), -1)
            grid[place] = whole[there]
            self.variables.same(grid[place], whole[there])
            self.variables.grid(grid, tuple(inputs[dim] for dim in link.inputs))
        if len(link.outputs) == 1:
            self._assign(outputs[link.outputs[0]], whole)
            return
        for axis in link.outputs:
            loose = outputs[axis] < 0
            outputs[axis][loose] = self.variables.fresh(len(outputs[axis]))[loose]
        self.variables.grid(whole, tuple(outputs[axis] for axis in link.outputs))

    def finished(self, movement: Movement, computed: set[int]) -> list[Dims]:
        """Fill in what no input decides: new variables, or frozen where the operator could not do without."""
        for output, axis, places in movement.written:
            dim = self.dims[output][axis]
            held = np.asarray(places)
            self.variables.freeze(dim[held][dim[held] >= 0])
            dim[held] = FROZEN
        for dims in self.dims:
            for axis, dim in enumerate(dims):
                loose = dim < 0
                if len(dim) == 1 or (axis in computed and loose.all()):
                    dim[loose] = FROZEN
                elif loose.any():
                    dim[loose] = self.variables.fresh(len(dim))[loose]
        return self.dims

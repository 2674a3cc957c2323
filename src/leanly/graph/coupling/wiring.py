"""Wiring: the variables of every value in a graph, and what rules need to read from its nodes."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx
from torch.fx.node import map_aggregate

from leanly.graph import tensors
from leanly.graph.coupling.movement import Slot
from leanly.graph.coupling.shrinking import Answers, Question
from leanly.graph.coupling.variables import FROZEN, Array, Dims, Variables
from leanly.graph.example import Example
from leanly.graph.nodes import argument
from leanly.graph.shapes import is_spec, propagate, propagate_on

if TYPE_CHECKING:
    from leanly.graph.graph import Graph

Shape = tuple[int, ...]
INDEX = "cut_index_"
"""Where the names of constants start that say which indices of a dimension are read."""


def picks(node: fx.Node) -> bool:
    """Say whether a node reads a list of indices that a cut put there."""
    return node.op == "get_attr" and str(node.target).startswith(INDEX)


class Wiring:
    """Which variables stand along which dimension of which value.

    Args:
        graph: the graph that is looked at; nothing in it is changed.
        rows: the batch size at which it is looked at.
    """

    def __init__(self, graph: Graph, rows: int) -> None:
        self.graph = graph
        self._rows = rows
        self.results = propagate(graph, rows)
        self.variables = Variables()
        self.answers = Answers()
        self.values: dict[str, list[Dims]] = {}
        self.groups: dict[str, Array] = {}
        """Of grouped convolutions and norms: the variables of the groups themselves."""
        self.moved: dict[str, tuple[Question, list[fx.Node]]] = {}
        """Nodes that rearrange, with the question they stand for and the tensors in its slots."""
        self.sourceless: set[str] = set()
        """Nodes that read no input, parameter or buffer."""
        self.made: set[str] = set()
        """Those of them that can't be told to leave indices out."""
        self.vanishing: set[str] = set()
        """Nodes whose values are zero where all that is stored of an index is."""
        self._owners: dict[int, Dims] = {}
        self._barriers: dict[str, int] = {}

    def resized(self) -> tuple[Tensor, ...]:
        """Return the example at another batch size and other lengths."""
        example = Example(self.graph.example, self.graph.inputs, self.graph.arguments)
        return example.sized(self._rows + 1, example.shift)

    @cached_property
    def elsewhere(self) -> dict[str, Any]:
        """The results at another batch size and other lengths."""
        return propagate_on(self.graph, self.resized())

    def shape(self, node: Any) -> Shape:
        """Return the shape of a node that is one tensor."""
        return self.results[node.name][0]

    def shapes(self, node: fx.Node) -> list[Shape]:
        """Return the shapes of all results of a node."""
        result = self.results[node.name]
        items = [result] if is_spec(result) or not isinstance(result, tuple | list) else result
        return [item[0] if is_spec(item) else () for item in items]

    def is_tensor(self, item: Any) -> bool:
        """Say whether an argument is one tensor."""
        return isinstance(item, fx.Node) and is_spec(self.results[item.name])

    def gives_tensors(self, node: fx.Node) -> bool:
        """Say whether all results of a node are tensors, and there is one."""
        result = self.results[node.name]
        return is_spec(result) or (isinstance(result, tuple | list) and bool(result) and all(map(is_spec, result)))

    def dims(self, node: Any) -> Dims:
        """Return the variables of a node that is one tensor."""
        return self.values[node.name][0]

    def given(self, node: fx.Node, name: str) -> Any:
        """Return an argument by its name in the schema: variables of a tensor, None where it is left out."""
        value = argument(node, name)
        return self.dims(value) if self.is_tensor(value) else None

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """List the tensors among the arguments, in order, one that comes twice twice."""
        found: list[fx.Node] = []
        map_aggregate((node.args, node.kwargs), lambda item: found.append(item) if self.is_tensor(item) else None)  # type: ignore[arg-type, func-returns-value]
        return found

    def concrete(self, item: Any) -> Any:
        """Replace computed sizes by what they are for the example."""
        return map_aggregate(
            item,
            lambda leaf: self.results[leaf.name] if isinstance(leaf, fx.Node) and not self.is_tensor(leaf) else leaf,
        )

    def computes_sizes(self, node: fx.Node) -> bool:
        """Say whether a number among the arguments is computed when the graph runs."""
        return any(not self.is_tensor(source) for source in node.all_input_nodes)

    def question(self, node: fx.Node) -> tuple[Question, list[fx.Node]]:
        """Return what a node calls as a question to be answered on ids, and the tensors that go into its slots."""
        sources: list[fx.Node] = []

        def slot(item: Any) -> Any:
            if not self.is_tensor(item):
                return item
            sources.append(item)
            return Slot(len(sources) - 1)

        args, kwargs = map_aggregate((self.concrete(node.args), self.concrete(node.kwargs)), slot)  # type: ignore[misc]
        shapes = tuple(self.shape(source) for source in sources)
        return Question(node.target, args, tuple(kwargs.items()), shapes), sources  # type: ignore[arg-type, union-attr]

    def tensor(self, node: fx.Node) -> Tensor:
        """Return the parameter or buffer that a node reads."""
        return tensors.find(self.graph.module, str(node.target))

    def stored(self, node: fx.Node) -> Dims:
        """Return the variables of a parameter or buffer; a tensor with two names has them once."""
        tensor = self.tensor(node)
        if id(tensor) not in self._owners:
            self._owners[id(tensor)] = [self.variables.fresh(size) for size in tensor.shape]
        return self._owners[id(tensor)]

    def barrier(self, node: fx.Node) -> int:
        """Return the frozen variable of a node that keeps what it touches whole."""
        if node.name not in self._barriers:
            self._barriers[node.name] = self.variables.barrier(node)
        return self._barriers[node.name]

    def hold(self, node: fx.Node, *dims: Array) -> int:
        """Keep dimensions whole on account of a node; return its barrier, or FROZEN where they are whole anyway."""
        if all(self.variables.is_frozen(dim).all() for dim in dims):
            return FROZEN
        by = self.barrier(node)
        for dim in dims:
            self.variables.freeze(dim, by)
        return by

    def adds_up(self, dim: Array, *factors: fx.Node) -> None:
        """Note that products, or one factor alone, are summed over a dimension; what is not zero is missed there."""
        if not any(factor.name in self.vanishing for factor in factors):
            self.variables.changes_statistics(dim)

    def solid(self, node: fx.Node, by: int) -> list[Dims]:
        """Return results that never lose an index."""
        return [[self.variables.solid(size, by) for size in shape] for shape in self.shapes(node)]

    def freeze(self, node: Any, by: int) -> None:
        """Keep all dimensions of a value whole."""
        for dims in self.values[node.name]:
            for dim in dims:
                self.variables.freeze(dim, by)

    def broadcast(self, values: list[Dims], shape: Shape) -> Dims:
        """Align dimensions from the right: those of one place are the same, size 1 stretches."""
        result: Dims = []
        for place in range(-len(shape), 0):
            here = [dims[place] for dims in values if -place <= len(dims) and len(dims[place]) == shape[place]]
            first = here[0] if here else self.variables.fresh(shape[place])
            if shape[place] != 1:
                for other in here[1:]:
                    self.variables.same(first, other)
            result.append(first)
        return result

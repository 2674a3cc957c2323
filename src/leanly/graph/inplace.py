"""In-place operators on data, rewritten so that every node has one value.

A write through a view (`x[:, 0] = y`) is carried back to the tensor it looks into, and the other views of that tensor
are made anew when they are next read. What is written into a buffer is copied there once, at the end.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from leanly.errors import CaptureError
from leanly.graph.explaining import line_of_node
from leanly.graph.nodes import argument, argument_names
from leanly.graph.tensors import find

aten = torch.ops.aten

_WHOLE = {
    aten.view.default,
    aten.reshape.default,
    aten.view_as.default,
    aten.reshape_as.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.ravel.default,
}
"""Views that hold every element of their base in the same order: written back by a reshape."""
_SCATTERS = {
    aten.select.int: aten.select_scatter.default,
    aten.slice.Tensor: aten.slice_scatter.default,
    aten.diagonal.default: aten.diagonal_scatter.default,
    aten.as_strided.default: aten.as_strided_scatter.default,
}
"""Views of a part, and the operator that puts a part into a whole; it takes the same further arguments."""
_MIRRORS = {
    aten.transpose.int,
    aten.swapaxes.default,
    aten.swapdims.default,
    aten.t.default,
    aten.numpy_T.default,
    aten.mT.default,
}
"""Views that are their own inverse."""
_SAME = {
    aten.contiguous.default,
    aten.detach.default,
    aten.alias.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.to.other,
    aten.type_as.default,
    aten.lift_fresh.default,
    aten.positive.default,
    aten.slice.Tensor,
}
"""Operators that may give back the very tensor they were given."""
_RESHAPED_IN_PLACE = {"squeeze_", "unsqueeze_", "transpose_", "t_", "swapaxes_", "swapdims_"}
_REFUSED = {"resize_", "resize_as_", "set_", "as_strided_", "rename_", "requires_grad_"}


@dataclass
class _Run:
    """What one run of the graph on the example showed of each node: memory, shape, dtype, and the length of lists."""

    memory: dict[fx.Node, set[int]] = field(default_factory=dict)
    shapes: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[fx.Node, torch.dtype] = field(default_factory=dict)
    counts: dict[fx.Node, int] = field(default_factory=dict)


def functional(module: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
    """Rewrite the in-place operators of a module's graph.

    Raises:
        CaptureError: an in-place operator or a view for which there is no such form; names the user's line.
    """
    if any(_written(node) for node in module.graph.nodes):
        _Rewriter(module, _observe(module, example)).run()


def _written(node: fx.Node) -> list[str]:
    """Name the arguments that a node writes into."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return []
    return [item.name for item in schema.arguments if item.alias_info is not None and item.alias_info.is_write]


def _observe(module: fx.GraphModule, example: tuple[Tensor, ...]) -> _Run:
    """Run once: whether `reshape`, `to` or `contiguous` copies depends on strides, which only a run shows."""
    run = _Run()
    alive: list[Any] = []  # memory freed in between could be handed out again

    class Runner(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            alive.append(result)
            if isinstance(result, Tensor):
                run.shapes[n], run.dtypes[n] = tuple(result.shape), result.dtype
            elif isinstance(result, tuple | list):
                run.counts[n] = len(result)
            leaves = result if isinstance(result, tuple | list) else (result,)
            run.memory[n] = {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)} - {0}
            return result

    read = (find(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr")
    states = [(tensor, tensor.detach().clone()) for tensor in read if isinstance(tensor, Tensor)]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            Runner(module, garbage_collect_values=False).run(*(tensor.clone() for tensor in example))
    finally:
        for tensor, before in states:  # running statistics and other buffers as they were
            tensor.data.copy_(before)
    return run


class _Rewriter:
    """One walk over the graph, in the order the operators run.

    `value` holds the node with the present value of an original node; `base` and `steps` say which node a view looks
    into, and by which operators; `written` counts the writes into a root, and `made` at which count a value was read.
    """

    def __init__(self, module: fx.GraphModule, run: _Run) -> None:
        self.graph = module.graph
        self.seen = run
        self.value: dict[fx.Node, fx.Node] = {}
        self.base: dict[fx.Node, fx.Node] = {}
        self.steps: dict[fx.Node, tuple[fx.Node, ...]] = {}
        self.same: dict[fx.Node, fx.Node] = {}
        self.written: dict[fx.Node, int] = {}
        self.made: dict[fx.Node, int] = {}
        self.lists: dict[fx.Node, tuple[fx.Node, int]] = {}
        self.buffers: list[fx.Node] = []

    def run(self) -> None:
        gone = []
        for node in list(self.graph.nodes):
            with self.graph.inserting_before(node):
                names = _written(node)
                if names:
                    self._write(node, names)
                    gone.append(node)
                    continue
                self._look(node)
                if node.op == "output":
                    self._copy_back()
                node.args = map_arg(node.args, self._now)
                node.kwargs = map_arg(node.kwargs, self._now)
        for node in reversed(gone):
            self.graph.erase_node(node)

    def _look(self, node: fx.Node) -> None:
        """Note a new value: what it looks into, if it is a view in the memory of another."""
        self.value[node] = node
        self.written[node] = 0
        self.made[node] = 0
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            return
        first = node.args[0]
        if node.target is operator.getitem and first in self.lists:
            base, made = self.lists[first]
            self.base[node], self.steps[node], self.made[node] = base, (first, node), made
            return
        schema = getattr(node.target, "_schema", None)
        if schema is None or all(item.alias_info is None for item in schema.arguments):
            return
        if not self.seen.memory.get(node, set()) & self.seen.memory.get(first, set()):
            return
        base = self._origin(first)
        version = self.written[self._root(base)]
        if node in self.seen.counts:
            self.lists[node] = (base, version)
        else:
            self.base[node], self.steps[node], self.made[node] = base, (node,), version

    def _origin(self, node: fx.Node) -> fx.Node:
        """Return what an in-place operator wrote into: its result is the same tensor."""
        while node in self.same:
            node = self.same[node]
        return node

    def _root(self, node: fx.Node) -> fx.Node:
        while node in self.base:
            node = self.base[node]
        return node

    def _now(self, node: fx.Node) -> fx.Node:
        """Return the node with the present value, looking into the base again where that was written since."""
        node = self._origin(node)
        if node not in self.value:
            return node
        version = self.written[self._root(node)]
        if self.made[node] != version:
            self.value[node] = self._replay(self.steps[node], self._now(self.base[node]))
            self.made[node] = version
        return self.value[node]

    def _replay(self, steps: tuple[fx.Node, ...], value: fx.Node) -> fx.Node:
        for step in steps:
            rest = map_arg(step.args[1:], self._now)
            meta, value = step.meta, self.graph.call_function(step.target, (value, *rest), dict(step.kwargs))  # type: ignore[arg-type]
            value.meta = dict(meta)
        return value

    def _write(self, node: fx.Node, names: list[str]) -> None:
        name = node.target._schema.name.partition("::")[2]  # type: ignore[union-attr]
        if names != ["self"] or not name.endswith("_") or name in _REFUSED:
            raise _refusal(node, f"the operator {node.target} writes into its arguments")
        target = self._origin(node.args[0])  # type: ignore[arg-type]
        moved = name in _RESHAPED_IN_PLACE
        if moved and (target in self.base or any(self._root(view) is target for view in self.base)):
            raise _refusal(node, f"{name} changes the shape of a tensor that other tensors look into")
        value = self._plain(node, name, self._now(target))
        value.meta = dict(node.meta)
        self.same[node] = target
        self._carry(node, target, value)

    def _plain(self, node: fx.Node, name: str, old: fx.Node) -> fx.Node:
        """Make the node that computes what an in-place operator would have left behind."""
        rest: tuple[Any, ...] = map_arg(tuple(node.args[1:]), self._now)  # type: ignore[assignment]
        kwargs = map_arg(dict(node.kwargs), self._now)
        call = self.graph.call_function
        others = [item for item in node.args[1:] if isinstance(item, fx.Node) and item in self.seen.dtypes]
        promotes = any(self.seen.dtypes[item] != self.seen.dtypes[node.args[0]] for item in others)  # type: ignore[index]
        if name in ("copy_", "fill_") and others:
            source = call(aten.type_as.default, (rest[0], old)) if promotes else rest[0]
            return call(aten.expand_as.default, (source, old))
        if name == "fill_":
            return call(aten.full_like.default, (old, rest[0]))
        if name == "zero_":
            return call(aten.zeros_like.default, (old,))
        overload = getattr(getattr(aten, name[:-1], None), node.target._overloadname, None)  # type: ignore[union-attr]
        if overload is None or overload._schema.is_mutable:
            raise _refusal(node, f"the in-place operator {node.target} has no form that gives a new tensor")
        value = call(overload, (old, *rest), kwargs)  # type: ignore[arg-type]
        if promotes and torch.Tag.pointwise in overload.tags:
            value.meta = dict(node.meta)
            value = call(aten.type_as.default, (value, old))  # in place keeps the dtype, the plain form promotes
        return value

    def _carry(self, node: fx.Node, target: fx.Node, value: fx.Node) -> None:
        """Make `value` what `target` holds, and change every tensor it looks into accordingly."""
        chain = [target]
        while chain[-1] in self.base:
            chain.append(self.base[chain[-1]])
        olds = [self._now(item) for item in chain]  # before any of them is replaced
        self.value[target] = value
        for view, base, old in zip(chain, chain[1:], olds[1:], strict=False):
            value = self._back(node, view, old, value)
            value.meta = dict(node.meta)
            self.value[base] = value
        root = chain[-1]
        self.written[root] += 1
        for item in chain:
            self.made[item] = self.written[root]
        if root.op == "get_attr" and root not in self.buffers:
            self.buffers.append(root)

    def _back(self, node: fx.Node, view: fx.Node, base: fx.Node, value: fx.Node) -> fx.Node:
        """Make the node for `base` with `value` where `view` looks."""
        call = self.graph.call_function
        step, *item = self.steps[view]
        target = step.target
        if item:
            parts = self._replay((step,), base)
            index, count = item[0].args[1], self.seen.counts[step]
            pieces = [value if i == index else call(operator.getitem, (parts, i)) for i in range(count)]
            join = aten.stack.default if target is aten.unbind.int else aten.cat.default
            return call(join, (pieces, argument(step, "dim")))
        read = {name: map_arg(argument(step, name), self._now) for name in argument_names(step)[1:]}
        if target in _WHOLE:
            return call(aten.reshape_as.default, (value, base))
        if target in _SCATTERS:
            return call(_SCATTERS[target], (base, value, *read.values()))  # type: ignore[index]
        if target in _MIRRORS:
            return call(target, (value, *step.args[1:]))  # type: ignore[arg-type]
        if target is aten.permute.default:
            dims = [dim % len(step.args[1]) for dim in step.args[1]]  # type: ignore[union-attr, arg-type, operator]
            return call(aten.permute.default, (value, [dims.index(i) for i in range(len(dims))]))
        if target in (aten.movedim.int, aten.movedim.intlist, aten.moveaxis.int, aten.moveaxis.intlist):
            return call(target, (value, step.args[2], step.args[1]))  # type: ignore[arg-type]
        if target is aten.narrow.default:
            stop = call(operator.add, (read["start"], read["length"]))
            return call(aten.slice_scatter.default, (base, value, read["dim"], read["start"], stop))
        if self.seen.shapes[step] == self.seen.shapes[step.args[0]] and target in _SAME:  # type: ignore[index]
            return value
        raise _refusal(node, f"writing through the view {target}")

    def _copy_back(self) -> None:
        for buffer in self.buffers:
            value = self.graph.call_function(aten.detach.default, (self._now(buffer),))
            self.graph.call_function(aten.copy_.default, (buffer, value))


def _refusal(node: fx.Node, what: str) -> CaptureError:
    return CaptureError(
        f"{what} can't be rewritten without the write",
        where=line_of_node(node),
        remedy="write that line so that it makes a new tensor (torch.cat, torch.where, x = x + y)",
    )

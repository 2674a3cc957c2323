"""Literals that follow a cut: sizes, bounds, counts and groups written into the arguments of operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import fx

from leanly.graph import tensors
from leanly.graph.coupling.shrinking import PADS, RESHAPES, operator_name
from leanly.graph.coupling.sizes import Sizes, positions
from leanly.graph.coupling.variables import Array
from leanly.graph.coupling.wiring import INDEX, picks
from leanly.graph.nodes import argument, argument_names, set_argument

aten = torch.ops.aten


def rewrite(node: fx.Node, sizes: Sizes) -> None:
    """Make the literals of one node fit what stays of its inputs and outputs.

    Raises:
        Unfit: a number computed when the graph runs would change where no size stands.
    """
    rule = _REWRITES.get(operator_name(node.target))
    fitted = rule(node, sizes) if rule is not None else None
    sizes.check_numbers(node, fitted or frozenset())


def pick(node: fx.Node, sizes: Sizes) -> None:
    """Let a node of `Wiring.made` go on making what it makes, and read what stays of it.

    Raises:
        Unfit: it counts by a number that the cut changes.
    """
    sizes.check_numbers(node)
    lost = [dim for dim in range(len(sizes.shape(node.name))) if not sizes.is_whole(node.name, dim)]
    if not lost:
        return
    places = {dim: np.flatnonzero(sizes.stays(node.name, dim)) for dim in lost}
    if node.target is aten.index_select.default and lost == [node.args[1]] and picks(node.args[2]):  # type: ignore[arg-type]
        before = tensors.find(node.graph.owning_module, str(node.args[2].target))  # type: ignore[arg-type, union-attr]
        node.args = (*node.args[:2], _constant(node, before.cpu().numpy()[places[lost[0]]]))
        return
    with node.graph.inserting_before(node):
        found = node.graph.node_copy(node, lambda source: source)
    for user in list(node.users):
        if user.name in sizes.wiring.made:
            user.replace_input_with(node, found)
    for dim in lost[:-1]:
        with node.graph.inserting_before(node):
            found = node.graph.call_function(aten.index_select.default, (found, dim))
        found.args = (*found.args, _constant(found, places[dim]))
    node.target, node.kwargs = aten.index_select.default, {}
    node.args = (found, lost[-1], _constant(node, places[lost[-1]]))


def _sizes_at(name: str, first: Callable[[fx.Node, int], int]) -> Callable[[fx.Node, Sizes], frozenset[str]]:
    """Return a rule for sizes in the argument `name`, the first of which is that of dimension `first(node, rank)`."""

    def rule(node: fx.Node, sizes: Sizes) -> frozenset[str]:
        key = name if name in argument_names(node) else "size"
        old = argument(node, key)
        start = first(node, len(sizes.shape(node.name)))
        new = [sizes.fitted(size, sizes.length(node.name, start + place), node) for place, size in enumerate(old)]
        if new != list(old):
            set_argument(node, key, new)
        return frozenset(size.name for size in (*old, *new) if isinstance(size, fx.Node))

    return rule


def _repeat(node: fx.Node, sizes: Sizes) -> None:
    """Repeats of a dimension of size 1 are its length."""
    key = "repeats" if "repeats" in argument_names(node) else "dims"
    old = list(argument(node, key))
    x = sizes.wiring.moved[node.name][1][0].name
    inputs, outputs = sizes.shape(x), sizes.shape(node.name)
    before = sizes.wiring.shape(node)
    for place in range(-len(old), 0):
        if isinstance(old[place], int) and outputs[place] != before[place]:
            one = inputs[place] if -place <= len(inputs) else 1
            old[place] = outputs[place] // one
    set_argument(node, key, old)


def _split(node: fx.Node, sizes: Sizes) -> None:
    x = node.args[0]
    dim = argument(node, "dim") % len(sizes.shape(x.name))  # type: ignore[union-attr]
    if sizes.is_whole(x.name, dim):  # type: ignore[union-attr]
        return
    lengths = [sizes.length(node.name, dim, output) for output in range(len(sizes.wiring.values[node.name]))]
    node.target = aten.split_with_sizes.default
    node.args, node.kwargs = (x, lengths, dim), {}


def _slice(node: fx.Node, sizes: Sizes) -> None:
    """Read the same indices where they stand now: a slice where they are evenly spaced, else a list."""
    dim, places = _places(node, sizes)
    if places is None:
        return
    bounds = _evenly(places)
    if bounds is not None:
        node.args, node.kwargs = (node.args[0], dim, *bounds), {}
    else:
        node.args, node.kwargs = (node.args[0], dim, _constant(node, places)), {}
        node.target = aten.index_select.default


def _narrow(node: fx.Node, sizes: Sizes) -> None:
    """Write it as a slice, and cut that."""
    dim, start, length = (argument(node, name) for name in ("dim", "start", "length"))
    if isinstance(start, int) and isinstance(length, int):
        start += sizes.wiring.shape(node.args[0])[dim] if start < 0 else 0
        node.target = aten.slice.Tensor
        node.args, node.kwargs = (node.args[0], dim, start, start + length), {}
        _slice(node, sizes)


def _slice_scatter(node: fx.Node, sizes: Sizes) -> None:
    """Write to the same indices where they stand now."""
    dim, places = _places(node, sizes)
    if places is None:
        return
    base, source = node.args[:2]
    bounds = _evenly(places)
    if bounds is not None:
        node.args, node.kwargs = (base, source, dim, *bounds), {}
    else:
        node.args, node.kwargs = (base, dim, _constant(node, places), source), {}
        node.target = aten.index_copy.default


def _places(node: fx.Node, sizes: Sizes) -> tuple[int, Array | None]:
    """Return the dimension of a slice, and where the indices between its bounds stand; None where nothing is cut."""
    x = node.args[0]
    dim = argument(node, "dim") % len(sizes.shape(x.name))  # type: ignore[union-attr]
    stays = sizes.stays(x.name, dim)  # type: ignore[union-attr]
    if stays.all():
        return dim, None
    bounds = [sizes.wiring.concrete(argument(node, name)) for name in ("start", "end", "step")]
    read = np.arange(len(stays))[slice(*bounds)]
    return dim, positions(stays)[read[stays[read]]]


def _evenly(places: Array) -> tuple[int, int, int] | None:
    """Return start, end and step of indices that are evenly spaced."""
    steps = set(np.diff(places).tolist())
    if len(steps) > 1 or not len(places):
        return None
    return int(places[0]), int(places[-1]) + 1, steps.pop() if steps else 1


def _constant(node: fx.Node, places: Array) -> fx.Node:
    """Put a list of indices into the module and return the node that reads it."""
    module = node.graph.owning_module
    assert module is not None
    name = tensors.free_name(module, f"{INDEX}{node.name}")  # an earlier cut's may still be read by a copy of the node
    index = torch.from_numpy(places).to(next(iter(tensors.every(module).values())).device)
    tensors.put(module, name, index, persistent=False)
    with node.graph.inserting_before(next(iter(node.graph.nodes))):
        return tensors.read_attr(module, name)


def _index_select(node: fx.Node, sizes: Sizes) -> None:
    """Read at the new places of the indices that stay."""
    x, index = node.args[0], argument(node, "index")
    dim = argument(node, "dim") % len(sizes.shape(x.name))  # type: ignore[union-attr]
    if index.op != "get_attr" or sizes.is_whole(x.name, dim):  # type: ignore[union-attr]
        return
    read = sizes.wiring.tensor(index).cpu().numpy()[sizes.stays(node.name, dim)]
    places = positions(sizes.stays(x.name, dim))[read]  # type: ignore[union-attr]
    node.args, node.kwargs = (x, dim, _constant(node, places)), {}


def _select(node: fx.Node, sizes: Sizes) -> None:
    x = node.args[0]
    stays = sizes.stays(x.name, argument(node, "dim"))  # type: ignore[union-attr]
    index = argument(node, "index")
    if not stays.all() and isinstance(index, int):
        set_argument(node, "index", int(positions(stays)[index]))


def _pad(node: fx.Node, sizes: Sizes) -> None:
    """Keep as many of the filled indices on either side as stay; a negative amount takes what it took away."""
    x = node.args[0]
    amounts = list(argument(node, "pad"))
    rank = len(sizes.shape(x.name))  # type: ignore[union-attr]
    for place in range(0, len(amounts), 2):
        dim = rank - 1 - place // 2
        inputs, outputs = sizes.stays(x.name, dim), sizes.stays(node.name, dim)  # type: ignore[union-attr]
        if inputs.all() and outputs.all():
            continue
        before, after = amounts[place : place + 2]
        amounts[place] = int(outputs[:before].sum()) if before > 0 else -int(inputs[:-before].sum()) if before else 0
        last = len(inputs) + after
        amounts[place + 1] = int(outputs[-after:].sum()) if after > 0 else -int(inputs[last:].sum())
    set_argument(node, "pad", amounts)


def _normalized(node: fx.Node, sizes: Sizes) -> None:
    count = len(argument(node, "normalized_shape"))
    set_argument(node, "normalized_shape", list(sizes.shape(node.name)[-count:]))


def _groups(node: fx.Node, sizes: Sizes) -> None:
    if node.name in sizes.wiring.groups:
        name = next(name for name in ("groups", "num_groups", "group") if name in argument_names(node))
        set_argument(node, name, sizes.groups(node.name))


def _attention(node: fx.Node, sizes: Sizes) -> None:
    """Scores are divided by the root of the width they were trained with."""
    query = argument(node, "query")
    if argument(node, "scale") is None and not sizes.is_whole(query.name, -1):
        set_argument(node, "scale", sizes.wiring.shape(query)[-1] ** -0.5)


_REWRITES: dict[str, Callable[[fx.Node, Sizes], frozenset[str] | None]] = {
    **dict.fromkeys(RESHAPES, _sizes_at("shape", lambda node, rank: 0)),
    **dict.fromkeys(("expand", "broadcast_to"), _sizes_at("size", lambda node, rank: 0)),
    "unflatten": _sizes_at("sizes", lambda node, rank: argument(node, "dim") % (rank - len(node.args[2]) + 1)),  # type: ignore[arg-type]
    **dict.fromkeys(
        ("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty"),
        _sizes_at("size", lambda node, rank: 0),
    ),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(
        (
            *("split", "split_with_sizes", "chunk", "tensor_split"),
            *("unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"),
        ),
        _split,
    ),
    "slice": _slice,
    "narrow": _narrow,
    "slice_scatter": _slice_scatter,
    "index_select": _index_select,
    "select": _select,
    "select_scatter": _select,
    **dict.fromkeys(PADS, _pad),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), _normalized),
    **dict.fromkeys(
        (
            *("conv1d", "conv2d", "conv3d", "convolution", "group_norm"),
            *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        ),
        _groups,
    ),
    "scaled_dot_product_attention": _attention,
}

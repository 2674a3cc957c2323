"""Matrix products: convolution, linear, matmul, einsum, attention; an equal variable for each equal letter."""

from __future__ import annotations

from torch import fx

from leanly.graph.coupling.variables import Array, Dims
from leanly.graph.coupling.wiring import Wiring
from leanly.graph.nodes import argument, argument_names


def convolution(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Couple input channels with the weight's dimension 1 and output channels with its dimension 0, in groups."""
    weight = wiring.given(node, "weight")
    transposed = "transpose" in str(node.target) or _flag(node, "transposed")
    x, variables = wiring.given(node, "input"), wiring.variables
    spatial = len(weight) - 2
    groups = argument(node, "groups")
    channels = x[-spatial - 1]
    for kernel in weight[2:]:
        variables.freeze(kernel)
    by = wiring.hold(node, *x[len(x) - spatial :])
    if groups == 1:
        variables.same(channels, weight[1 - transposed])
        wiring.adds_up(channels, argument(node, "input"), argument(node, "weight"))
        outputs = weight[int(transposed)]
    else:
        number = variables.fresh(groups)
        wiring.groups[node.name] = number
        within = variables.fresh(len(weight[0]) // groups)
        variables.grid(weight[0], (number, within))
        if transposed:
            variables.same(channels, weight[0])
            outputs = variables.fresh(groups * len(weight[1]))
            variables.grid(outputs, (number, weight[1]))
        else:
            variables.grid(channels, (number, weight[1]))
            outputs = weight[0]
    _bias(node, wiring, outputs)
    shape = wiring.shape(node)
    return [[*x[: -spatial - 1], outputs, *(variables.solid(size, by) for size in shape[len(shape) - spatial :])]]


def linear(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Couple features with the weight's dimension 1, outputs with its dimension 0."""
    x, weight = wiring.given(node, "input"), wiring.given(node, "weight")
    wiring.variables.same(x[-1], weight[-1])
    wiring.adds_up(x[-1], argument(node, "input"), argument(node, "weight"))
    if len(weight) == 1:
        return [x[:-1]]
    _bias(node, wiring, weight[0])
    return [[*x[:-1], weight[0]]]


def bilinear(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Couple two inputs with a weight's dimensions 1 and 2, outputs with its dimension 0."""
    one, other, weight = (wiring.given(node, name) for name in ("input1", "input2", "weight"))
    wiring.variables.same(one[-1], weight[1])
    wiring.variables.same(other[-1], weight[2])
    _bias(node, wiring, weight[0])
    return [[*wiring.broadcast([one[:-1], other[:-1]], wiring.shape(node)[:-1]), weight[0]]]


def matmul(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Multiply matrices: the last dimension of the left against the one before last of the right."""
    one, other = wiring.sources(node)[:2]
    return [_multiply(one, other, wiring, wiring.shape(node))]


def added_matmul(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Multiply matrices and add a third tensor, broadcast."""
    added, one, other = wiring.sources(node)[:3]
    shape = wiring.shape(node)
    return [wiring.broadcast([_multiply(one, other, wiring, shape), wiring.dims(added)], shape)]


def einsum(node: fx.Node, wiring: Wiring) -> list[Dims] | None:
    """Give each letter its variables; an ellipsis is aligned from the right."""
    equation, operands = str(node.args[0]).replace(" ", ""), wiring.sources(node)
    left, arrow, right = equation.partition("->")
    known: dict[str | int, Array] = {}
    for term, operand in zip(left.split(","), operands, strict=True):
        dims = wiring.dims(operand)
        for letter, dim in zip(_letters(term, len(dims)), dims, strict=True):
            if letter not in known or len(known[letter]) == 1:
                known[letter] = dim
            elif len(dim) > 1:
                wiring.variables.same(known[letter], dim)
    if not arrow:
        hidden = "..." if any(isinstance(letter, int) for letter in known) else ""
        right = hidden + "".join(sorted(x for x in known if isinstance(x, str) and left.count(x) == 1))
    for letter in (letter for letter in known if isinstance(letter, str) and letter not in right):
        having = [operand for term, operand in zip(left.split(","), operands, strict=True) if letter in term]
        wiring.adds_up(known[letter], *having)
    return [[known[letter] for letter in _letters(right, len(wiring.shape(node)))]]


def attention(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Couple the widths of queries and keys, those of values and outputs, and heads; lengths are frozen."""
    query, key, value = (wiring.given(node, name) for name in ("query", "key", "value"))
    mask, variables = wiring.given(node, "attn_mask"), wiring.variables
    variables.same(query[-1], key[-1])
    wiring.adds_up(query[-1], argument(node, "query"), argument(node, "key"))
    for length in (query[-2], key[-2], value[-2], *(mask[-2:] if mask else ())):
        variables.freeze(length)
    shape = wiring.shape(node)
    if len(query) > 2 and len(key[-3]) not in (1, len(query[-3])):
        heads = len(key[-3])
        repeats = variables.fresh(len(query[-3]) // heads)
        for one in (key, value):
            variables.grid(query[-3], (one[-3], repeats))
        key, value = ([*one[:-3], query[-3], *one[-2:]] for one in (key, value))
    leading = [dims[:-2] for dims in (query, key, value, mask) if dims is not None]
    return [[*wiring.broadcast(leading, shape[:-2]), query[-2], value[-1]]]


def _multiply(left: fx.Node, right: fx.Node, wiring: Wiring, shape: tuple[int, ...]) -> Dims:
    one, other = wiring.dims(left), wiring.dims(right)
    wiring.adds_up(one[-1], left, right)
    wiring.variables.same(one[-1], other[-2] if len(other) > 1 else other[0])
    result = [one[-2]] if len(one) > 1 else []
    result += [other[-1]] if len(other) > 1 else []
    return [*wiring.broadcast([one[:-2], other[:-2]], shape[: len(shape) - len(result)]), *result]


def _bias(node: fx.Node, wiring: Wiring, outputs: Array) -> None:
    bias = wiring.given(node, "bias")
    if bias is not None:
        wiring.variables.same(outputs, bias[0])


def _letters(term: str, rank: int) -> list[str | int]:
    """Take a term apart; what an ellipsis stands for is numbered from the right."""
    before, _, after = term.partition("...")
    hidden = range(-(rank - len(before) - len(after)), 0) if "..." in term else ()
    return [*before, *hidden, *after]


def _flag(node: fx.Node, name: str) -> bool:
    names = argument_names(node)
    return name in names and bool(argument(node, name))


RULES = {
    **dict.fromkeys(
        (
            *("conv1d", "conv2d", "conv3d", "convolution"),
            *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        ),
        convolution,
    ),
    "linear": linear,
    "bilinear": bilinear,
    **dict.fromkeys(("matmul", "mm", "bmm", "mv", "dot", "vdot"), matmul),
    **dict.fromkeys(("addmm", "addmv", "baddbmm"), added_matmul),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
}

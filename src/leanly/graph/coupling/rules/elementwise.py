"""Operators that work on each element by itself: dimensions are aligned from the right and are the same."""

from __future__ import annotations

from torch import fx

from leanly.graph.coupling.variables import Dims
from leanly.graph.coupling.wiring import Wiring
from leanly.graph.nodes import argument


def pointwise(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Broadcast all tensors among the arguments."""
    values = [wiring.dims(source) for source in wiring.sources(node)]
    return [wiring.broadcast(values, shape) for shape in wiring.shapes(node)]


def unary(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Give the first argument's dimensions; others only say a dtype, a device, a format."""
    dims = wiring.dims(wiring.sources(node)[0])
    return [dims for _ in wiring.shapes(node)]


def like(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Make a new tensor with the sizes of another."""
    return [wiring.dims(argument(node, "self"))]


def create(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Make a tensor of one constant: a literal size follows a cut, a computed one does not."""
    sizes = argument(node, "size")
    return [
        [
            wiring.variables.solid(length) if isinstance(size, fx.Node) else wiring.variables.fresh(length)
            for size, length in zip(sizes, wiring.shape(node), strict=True)
        ]
    ]


def prelu(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Read a slope for each channel (dimension 1), or one for all."""
    dims, slopes = wiring.given(node, "self"), wiring.given(node, "weight")
    if len(slopes) == 1 and len(slopes[0]) > 1:
        wiring.variables.same(slopes[0], dims[min(1, len(dims) - 1)])
    return [dims]


def glu(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Multiply one half of a dimension with the sigmoid of the other."""
    dims = list(wiring.given(node, "self"))
    axis = argument(node, "dim")
    half = len(dims[axis]) // 2
    wiring.variables.same(dims[axis][:half], dims[axis][half:])
    dims[axis] = dims[axis][:half]
    return [dims]


def fake_quantize(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Round to a grid: one scale and shift for all, or one for each index along an axis."""
    x, scale, shift = (wiring.dims(item) for item in node.args[:3])
    axis = argument(node, "axis")
    for steps in (scale, shift):
        if axis >= 0 and len(steps) == 1:
            wiring.variables.same(x[axis], steps[0])
    return [x]


RULES = {
    **dict.fromkeys(
        (
            *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout"),
            *("contiguous", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh", "lift_fresh_copy"),
            *("hardswish", "log_sigmoid", "log_sigmoid_forward", "positive", "fill", "bernoulli", "celu", "mish"),
        ),
        unary,
    ),
    **dict.fromkeys(
        (
            *("where", "masked_fill", "copy", "copy_", "__and__", "__or__", "__xor__", "__lshift__", "__rshift__"),
            *("ldexp", "rrelu_with_noise_functional"),
        ),
        pointwise,
    ),
    **dict.fromkeys(
        (
            *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "randint_like"),
            *("resize_as",),
        ),
        like,
    ),
    **dict.fromkeys(
        (
            *("zeros", "ones", "full", "empty", "rand", "randn"),
            *("new_zeros", "new_ones", "new_full", "new_empty"),
        ),
        create,
    ),
    "prelu": prelu,
    "_prelu_kernel": pointwise,
    "glu": glu,
    "fake_quantize": fake_quantize,
}

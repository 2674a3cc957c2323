"""Which values are zero where all that is stored of an index is zero: a sum over such values loses nothing by a cut."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from torch import fx, nn

from leanly.graph.coupling.shrinking import operator_name
from leanly.graph.nodes import argument, reads_tensor

if TYPE_CHECKING:
    from leanly.graph.coupling.wiring import Wiring

_KEEPING = frozenset({
    "relu", "relu6", "leaky_relu", "prelu", "_prelu_kernel", "rrelu_with_noise_functional", "elu", "celu", "selu",
    "gelu", "silu", "mish", "hardswish", "hardtanh", "tanh", "tanhshrink", "softshrink", "hardshrink", "softsign",
    "abs", "neg", "sign", "round", "floor", "ceil", "trunc", "sin", "tan", "asin", "atan", "sinh", "erf", "expm1",
    "log1p", "sqrt", "square", "dropout", "feature_dropout", "alpha_dropout", "native_dropout", "clone", "contiguous",
    "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh", "lift_fresh_copy", "zeros_like", "glu",
    "fake_quantize", "sum", "mean", "norm", "linalg_vector_norm",
})  # fmt: skip
"""Operators that give zero for zero."""
_SUMS = frozenset({"add", "sub", "rsub", "maximum", "minimum", "where", "lerp"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "mv", "dot", "vdot"})
_OTHER_PRODUCTS = frozenset({"addmm", "addmv", "baddbmm", "einsum"})
_LAYERS = frozenset({
    "linear", "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "embedding", "bilinear", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell",
    "rnn_relu_cell",
})  # fmt: skip
_NORMS = frozenset({
    "batch_norm", "instance_norm", "native_batch_norm", "layer_norm", "native_layer_norm", "rms_norm", "group_norm",
})  # fmt: skip


def vanishes(node: fx.Node, wiring: Wiring) -> bool:
    """Say whether a node's values are zero at every index whose stored values are all zero.

    Args:
        node: all that it reads was asked about before.
        wiring: knows the answers, and the dimensions.
    """
    if node.op == "get_attr":
        return isinstance(wiring.tensor(node), nn.Parameter)
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return _is_zero(node.args[0], wiring)
    name, sources = operator_name(node.target).rstrip("_"), wiring.sources(node)
    if name in _LAYERS:
        stored = [source for source in sources if source.op == "get_attr"]
        return bool(stored) and all(_is_zero(source, wiring) for source in stored)
    if name in _NORMS:
        scale, offset = argument(node, "weight"), argument(node, "bias") if name != "rms_norm" else None
        return reads_tensor(scale) and all(one is None or _is_zero(one, wiring) for one in (scale, offset))
    if name == "mul":
        return any(_is_zero(source, wiring) and _spans(source, node, wiring) for source in sources)
    if name == "pow" and not (isinstance(node.args[1], int | float) and node.args[1] > 0):
        return False
    if name in ("div", "pow"):
        return _is_zero(node.args[0], wiring) and _spans(sources[0], node, wiring)
    if name in _SUMS:
        whole = all(not isinstance(item, int | float) or item == 0 for item in node.args)
        return whole and all(
            _is_zero(source, wiring) and _spans(source, node, wiring) for source in _added(node, sources)
        )
    if name == "scaled_dot_product_attention":
        return all(_is_zero(source, wiring) for source in sources[:3])
    if name in _KEEPING:
        return _is_zero(sources[0], wiring)
    if name in _PRODUCTS:  # a vector gives the product no dimension of its own
        return all(_is_zero(source, wiring) for source in sources if len(wiring.shape(source)) > 1)
    if name in _OTHER_PRODUCTS or node.name in wiring.moved:
        return bool(sources) and all(_is_zero(source, wiring) for source in sources)
    return False


def _added(node: fx.Node, sources: list[fx.Node]) -> list[fx.Node]:
    """The tensors that are added: a condition only picks among them."""
    return sources[1:] if operator_name(node.target) == "where" else sources


def _is_zero(item: object, wiring: Wiring) -> bool:
    return isinstance(item, fx.Node) and item.name in wiring.vanishing


def _spans(source: fx.Node, node: fx.Node, wiring: Wiring) -> bool:
    """Say whether an operand has every dimension that can lose something: where it is stretched it stands for all."""
    shape, own = wiring.shape(node), wiring.shape(source)
    padded = (1,) * (len(shape) - len(own)) + tuple(own)
    dims = wiring.dims(node)
    return all(
        one == other or wiring.variables.is_frozen(dim).all()
        for one, other, dim in zip(shape, padded, dims, strict=True)
    )

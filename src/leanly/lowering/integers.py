"""Weights and biases stored as the integers that the kernels read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from leanly.graph import Graph
from leanly.graph import packed as _packed  # noqa: F401  (registers the operators named below)
from leanly.graph.folding import fold_batch_norm
from leanly.graph.nodes import argument, reads_tensor, set_argument
from leanly.graph.quantizer import along, of_weight
from leanly.graph.tensors import drop_unread, find, put, read_attr
from leanly.lowering.signs import pack_layers, store_signs
from leanly.packing import in_the_middle
from leanly.quantize.affine import Affine
from leanly.quantize.binary import has_signs, multiplies_signs
from leanly.quantize.forms import Form
from leanly.quantize.placement import WEIGHTED, root
from leanly.quantize.quantizers import is_quantizer, quantizes_values, read_affine

aten = torch.ops.aten
DEQUANTIZE = torch.ops.leanly.dequantize.default
PACKED_LINEAR = torch.ops.leanly.packed_linear.default
PACKED_EMBEDDING = torch.ops.leanly.packed_embedding.default
GROUPED_EMBEDDING = torch.ops.leanly.grouped_embedding.default
Bits = dict[str, tuple[int, int]]
"""Bits and elements of each stored tensor."""
Widths = dict[str, int]
"""Bits of the integers in each tensor that is stored in bytes and needs fewer."""
BIAS_LIMIT = 2**30
"""A bias whose int32 form would pass this stays float: its weights' channel is (almost) empty."""
FULL_BITS = 7
"""Weights of fewer bits are stored as multiples in this many: the same values with a finer step, which the bias beside
them is rounded to. Two of their products with bytes still add up in 16 bits."""
RECIPROCAL_ERROR = 1e-6
"""Share of a step that is lost by taking its reciprocal and back."""


def store_integers(graph: Graph, *, packed_signs: bool = False) -> tuple[Graph, Bits, Widths]:
    """Return a graph whose quantized weights, and the biases beside them, are integer tensors; and what is stored.

    Args:
        graph: with quantizers.
        packed_signs: one-bit convolutions are left to the kernel of signs.
    """
    graph = fold_batch_norm(graph)
    module = graph.module
    bits: Bits = {}
    integer = computes_in_integers(graph)
    if packed_signs:
        pack_layers(graph, bits)
    widths: Widths = store_signs(module, bits)
    for node in list(module.graph.nodes):
        if is_quantizer(node):
            shift = str(argument(node, "shift").target)
            put(module, shift, torch.round(find(module, shift).detach()))
            if of_weight(node):
                if integer:
                    _store_weight(module, node, bits, widths)
                else:
                    _pack_weight(module, node, bits)
    for node in list(module.graph.nodes):
        if node.target in WEIGHTED:
            _store_bias(module, node, bits)
    module.graph.eliminate_dead_code()
    drop_unread(module)
    module.recompile()
    for node in module.graph.nodes:
        if node.op == "get_attr" and not str(node.target).startswith("quantizers."):
            tensor = find(module, str(node.target))
            bits.setdefault(str(node.target), (tensor.element_size() * 8, tensor.numel()))
    return graph, bits, widths


def computes_in_integers(graph: Graph) -> bool:
    """Say whether activations are quantized too: else the weights are decoded and products stay float."""
    return multiplies_signs(graph) or quantizes_values(graph)


def forms_of(graph: Graph) -> tuple[Form, ...]:
    """Return what a runtime has to have kernels for, to run a graph in the bits that its passes gave it."""
    forms = []
    if has_signs(graph) or multiplies_signs(graph):
        forms.append(Form.SIGNS)
    if quantizes_values(graph):
        forms.append(Form.INTEGERS)
    elif any(of_weight(node) for node in graph.module.graph.nodes):
        forms.append(Form.PACKED)
    return tuple(forms)


def _pack_weight(module: GraphModule, node: Node, bits: Bits) -> None:
    """Let the layers that read a weight decode it themselves."""
    source, affine = argument(node, "x"), read_affine(module, node)
    name, weight = str(source.target), _read(module, source).detach()
    codes, width = affine.quantize(weight), (affine.high - affine.low).bit_length()
    bits[f"{name}_int"] = (width, weight.numel())
    put(module, f"{name}_step", _as_half(1 / affine.scale))
    for reader in list(node.users):
        with module.graph.inserting_before(reader):
            if reader.target is aten.embedding.default:
                new = _pack_table(module, reader, name, codes, affine, bits)
            else:
                put(module, f"{name}_int", (codes - affine.low).to(torch.uint8))
                put(module, f"{name}_zero", (affine.shift - affine.low).to(torch.uint8))
                reads = (read_attr(module, f"{name}{part}") for part in ("_int", "_step", "_zero"))
                new = module.graph.call_function(
                    PACKED_LINEAR, (argument(reader, "input"), *reads, argument(reader, "bias"), width)
                )
                left_out = in_the_middle(affine.shift - affine.low, width)
                rows, groups = affine.shift.shape
                in_a_byte = 8 // width
                bits[f"{name}_zero"] = (0 if left_out else width, rows * -(-groups // in_a_byte) * in_a_byte)
        new.meta = dict(reader.meta)
        reader.replace_all_uses_with(new)
        module.graph.erase_node(reader)
    module.graph.erase_node(node)


def _pack_table(module: GraphModule, reader: Node, name: str, codes: Tensor, affine: Affine, bits: Bits) -> Node:
    """Return what looks rows up in a table of codes: four bits each where groups have scales of their own, or bytes."""
    grouped = affine.scale.ndim > 1
    packed = _nibbles(codes, affine.shift) if grouped else codes.to(torch.int8)
    put(module, f"{name}_int", packed)
    if grouped:
        bits[f"{name}_int"] = (4, 2 * packed.numel())  # zero points lie in the same rows
    given = (argument(reader, "indices"), read_attr(module, f"{name}_int"), read_attr(module, f"{name}_step"))
    if grouped:
        return module.graph.call_function(GROUPED_EMBEDDING, (*given, codes.shape[1]))
    return module.graph.call_function(PACKED_EMBEDDING, given)


def _as_half(step: Tensor) -> Tensor:
    """Return steps as float16 where none of them loses by it."""
    half = step.half()
    return half if torch.allclose(half.to(step.dtype), step, rtol=RECIPROCAL_ERROR, atol=0) else step


def _nibbles(codes: Tensor, zero: Tensor) -> Tensor:
    """Return rows of four-bit codes and, behind them, the zero points of their groups, two to a byte.

    The first half of a row lies in the low bits, the second in the high ones: to decode it takes no interleaving.
    """
    rows = torch.cat([codes, zero.to(codes.dtype)], 1)
    rows = F.pad(rows, (0, rows.shape[1] % 2))
    low, high = rows.chunk(2, 1)
    return (low + 16 * high).to(torch.uint8)


def _store_weight(module: GraphModule, node: Node, bits: Bits, widths: Widths) -> None:
    source, scale, shift = (argument(node, name) for name in ("x", "scale", "shift"))
    affine = read_affine(module, node)
    name = f"{source.target}_int"
    weight = _read(module, source)
    width = (affine.high - affine.low).bit_length()
    finer = 2 ** max(FULL_BITS - width, 0)
    codes = finer * affine.quantize(weight.detach())
    put(module, name, codes.to(torch.int8 if affine.low < 0 else torch.uint8))
    for part in (scale, shift):
        put(module, str(part.target), finer * find(module, str(part.target)).detach())
    bits[name] = (8, weight.numel())
    if width < 8:
        widths[name] = width
    with module.graph.inserting_before(node):
        value = read_attr(module, name)
        new = module.graph.call_function(DEQUANTIZE, (value, scale, shift, affine.axis))
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _store_bias(module: GraphModule, node: Node, bits: Bits) -> None:
    """int32 bias with the scale of the products: what integer convolutions add."""
    data, weight, bias = (argument(node, name) for name in ("input", "weight", "bias"))
    if not reads_tensor(bias):
        return
    source = root(data)
    if not is_quantizer(source) or weight.target is not DEQUANTIZE:
        return
    values = _read(module, bias)
    scales = [_read(module, argument(quantizer, "scale")).detach() for quantizer in (source, weight)]
    over = (values.detach().double() * scales[0] * scales[1]).abs() / BIAS_LIMIT
    if over.numel() == 0:
        return
    if float(over.max()) > 1:
        if scales[1].ndim == 0 or len(weight.users) > 1:
            return
        scales[1] = _coarsen(module, weight, over.clamp(min=1))
    scale = (scales[0] * scales[1]).expand(values.shape).clone()
    integers = torch.round(values.detach().double() * scale.double())
    name = f"{bias.target}_int_{node.name}"
    put(module, name, integers.to(torch.int32))
    quantizer = f"quantizers.{node.name}_bias"
    put(module, f"{quantizer}.scale", scale)
    put(module, f"{quantizer}.shift", torch.zeros_like(scale))
    bits[name] = (32, integers.numel())
    with module.graph.inserting_before(node):
        reads = tuple(read_attr(module, entry) for entry in (name, f"{quantizer}.scale", f"{quantizer}.shift"))
        new = module.graph.call_function(DEQUANTIZE, (*reads, 0))
    set_argument(node, "bias", new)


def _coarsen(module: GraphModule, weight: Node, times: Tensor) -> Tensor:
    """Give stored weights larger steps and return their scale: a channel that is next to nothing beside its bias.

    Its products keep some 30 bits below the bias. ONNX Runtime would make integers of a float bias itself, too large.
    """
    stored, scale = (_read(module, argument(weight, name)) for name in ("x_int", "scale"))
    with torch.no_grad():
        stored.copy_(torch.round(stored / along(times, stored, 0)))
        scale.div_(times)
    return scale


def _read(module: GraphModule, node: Any) -> Tensor:
    return find(module, str(node.target))

"""Graph -> ONNX through torch.onnx's dynamo exporter, opset 21, quantizers as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import logging
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx_ir.passes.common import NameFixPass
from onnxscript import opset21
from onnxscript.values import Op, Opset

from leanly.errors import LoweringError
from leanly.graph import Graph
from leanly.graph.attention import write_out_attention
from leanly.graph.nodes import argument, set_argument
from leanly.lowering.packing import pack_linear_layers
from leanly.quantize.quantizers import is_quantizer

OPSET = 21
op: Any = opset21
aten = torch.ops.aten
READ_ANEW = (
    ("torch.onnx._internal._lazy_import:onnxscript_apis", "get_torchlib_ops"),
    ("torch.onnx._internal.exporter._schemas", "op_signature_from_function"),
    ("torch._export.utils", "_materialize_cpp_cia_ops"),
)
"""What the exporter reads at each call though nothing in it changes: more than half of what a small network takes.

An operator that is registered later is found by its use.
"""
REDUCTIONS = frozenset({aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default})


def _of_signs(name: str, attributes: tuple[str, ...] = ()) -> Op:
    """Name an operation of leanly's own; `runtimes/kernels` has its code."""
    schema = onnx.defs.OpSchema(
        name,
        "leanly",
        1,
        inputs=[
            onnx.defs.OpSchema.FormalParameter(name, kind)
            for name, kind in (
                ("x", "tensor(float)"),
                ("threshold", "tensor(float)"),
                ("packed", "tensor(uint8)"),
                ("factor", "tensor(float)"),
                ("offset", "tensor(float)"),
            )
        ],
        outputs=[onnx.defs.OpSchema.FormalParameter("sums", "tensor(float)")],
        attributes=[
            onnx.defs.OpSchema.Attribute(attribute, onnx.defs.OpSchema.AttrType.INTS) for attribute in attributes
        ],
    )
    return Op(Opset(schema.domain, schema.since_version), schema.name, schema)


CONVOLVE = _of_signs("BinaryConvolution", ("kernel_shape", "strides", "pads", "dilations"))
MULTIPLY = _of_signs("BinaryLinear")
NARROW = 254
"""Steps of symmetric eight bits, whose smallest integer is left out: nothing is clamped to it."""
LARGEST_FILE = 2**31 - 2**20
"""Protobuf's limit; larger weights go to a file of their own."""


def _fake_quantize(x: Any, scale: Any, shift: Any, axis: int, low: int, high: int) -> Any:
    step, zero_point = _zero_point_form(scale, shift, onnx.TensorProto.INT8 if low < 0 else onnx.TensorProto.UINT8)
    along = {} if axis < 0 else {"axis": axis}
    integers = _within(op.QuantizeLinear(x, step, zero_point, **along), low, high)
    return op.DequantizeLinear(integers, step, zero_point, **along)


def _within(integers: Any, low: int, high: int) -> Any:
    """Clamp to fewer bits than the integers have; the type's own ends need no node."""
    if high - low >= NARROW:
        return integers
    ends = (op.CastLike(op.Constant(value_int=end), integers) for end in (low, high))
    return op.Clip(integers, *ends)


def _dequantize(x_int: Any, scale: Any, shift: Any, axis: int) -> Any:
    step, zero_point = _zero_point_form(scale, shift, int(x_int.dtype))
    if axis < 0:
        return op.DequantizeLinear(x_int, step, zero_point)
    return op.DequantizeLinear(x_int, step, zero_point, axis=axis)


def _packed_linear(x: Any, codes: Any, step: Any, zero_point: Any, bias: Any, bits: int) -> Any:
    """A form that every runtime reads; `pack_linear_layers` makes one node of it."""
    group = codes.shape[1] // step.shape[1]
    weight = _single(op.DequantizeLinear(codes, step, zero_point, axis=1, block_size=group))
    product = op.MatMul(x, op.Transpose(weight, perm=[1, 0]))
    return product if bias is None else op.Add(product, bias)


def _packed_embedding(ids: Any, codes: Any, step: Any) -> Any:
    rows = _single(op.Gather(codes, ids, axis=0))
    return op.Mul(rows, op.Unsqueeze(_single(op.Gather(step, ids, axis=0)), _integers(-1)))


def _grouped_embedding(ids: Any, packed: Any, step: Any, width: int) -> Any:
    """Bits are taken apart in floats, which every runtime has fast kernels for."""
    groups, before = step.shape[1], [0] * len(ids.shape)
    found = _single(op.Gather(packed, ids, axis=0))
    high = op.Floor(op.Mul(found, op.Constant(value_float=1 / 16)))
    low = op.Sub(found, op.Mul(high, op.Constant(value_float=16.0)))
    row = op.Concat(low, high, axis=-1)
    codes = op.Slice(row, _integers(0), _integers(width), _integers(-1))
    zero = op.Slice(row, _integers(width), _integers(width + groups), _integers(-1))
    values = op.Reshape(codes, _integers(*before, groups, width // groups))
    steps = op.Unsqueeze(_single(op.Gather(step, ids, axis=0)), _integers(-1))
    decoded = op.Mul(op.Sub(values, op.Unsqueeze(zero, _integers(-1))), steps)
    return op.Reshape(decoded, _integers(*before, width))


def _single(values: Any) -> Any:
    return op.Cast(values, to=onnx.TensorProto.FLOAT)


def _integers(*values: int) -> Any:
    return op.Constant(value_ints=list(values))


def _binarize(x: Any, threshold: Any, scale: Any, axis: int) -> Any:
    """Signs in bytes: the runtimes' integer kernels multiply them as any other."""
    behind = range(1, len(x.shape) - 1) if axis >= 0 else ()
    least = op.Unsqueeze(threshold, _integers(*behind)) if behind else threshold
    zero_point = op.Cast(op.Constant(value_int=0), to=onnx.TensorProto.INT8)
    values = op.Where(op.GreaterOrEqual(x, least), scale, op.Neg(scale))
    return op.DequantizeLinear(op.QuantizeLinear(values, scale, zero_point), scale, zero_point)


def _binary_convolution(
    x: Any,
    threshold: Any,
    packed: Any,
    factor: Any,
    offset: Any,
    kernel: Any,
    strides: Any,
    pads: Any,
    dilations: Any,
) -> Any:
    return CONVOLVE(
        x,
        threshold,
        packed,
        factor,
        offset,
        kernel_shape=list(kernel),
        strides=list(strides),
        pads=list(pads),
        dilations=list(dilations),
    )


def _binary_linear(x: Any, threshold: Any, packed: Any, factor: Any, offset: Any) -> Any:
    return MULTIPLY(x, threshold, packed, factor, offset)


def _zero_point_form(scale: Any, shift: Any, kind: int) -> tuple[Any, Any]:
    return op.Reciprocal(scale), op.Cast(shift, to=kind)


def export(graph: Graph, path: Path, *, integer_products: bool = False) -> tuple[str, ...]:
    """Write a graph in eval mode as ONNX and return the names of the files written.

    Args:
        graph: what `store_integers` gave, or a float graph.
        path: the `.onnx` file.
        integer_products: layers with packed weights may round what they are given to int8 as they multiply.

    Raises:
        LoweringError: the exporter has no translation for an operator; the node and its source line are named.
    """
    widths = {
        str(node.args[1].target): node.args[5]
        for node in graph.module.graph.nodes
        if node.target is torch.ops.leanly.packed_linear.default
    }
    shapes = [
        {i: torch.export.Dim.DYNAMIC for i, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in graph.inputs
    ]
    _read_translations_once()
    try:
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                _written_anew(graph),
                graph.example,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=tuple(shapes),
                input_names=[spec.name for spec in graph.inputs],
                output_names=[spec.name for spec in graph.outputs],
                custom_translation_table={
                    torch.ops.leanly.fake_quantize.default: _fake_quantize,
                    torch.ops.leanly.dequantize.default: _dequantize,
                    torch.ops.leanly.packed_linear.default: _packed_linear,
                    torch.ops.leanly.packed_embedding.default: _packed_embedding,
                    torch.ops.leanly.grouped_embedding.default: _grouped_embedding,
                    torch.ops.leanly.binarize.default: _binarize,
                    torch.ops.leanly.binary_convolution.default: _binary_convolution,
                    torch.ops.leanly.binary_linear.default: _binary_linear,
                },
                verbose=False,
            )
    except Exception as error:
        raise LoweringError(
            f"the ONNX exporter failed ({_reason(error)})",
            where=_culprit(graph, error),
            remedy="replace that operation in the model, or use runtimes=('torch',)",
        ) from error
    assert program is not None
    NameFixPass()(program.model)  # a value inside may be called as an input or an output is: "cat"
    model = program.model_proto
    _name_dimensions(model, graph)
    _name_nodes(model.graph, graph)
    _turn_twins(model.graph)
    pack_linear_layers(model, bits=widths, integer_products=integer_products)
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    if model.ByteSize() < LARGEST_FILE:
        onnx.save(model, str(path))
        return (path.name,)
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.stem}.data")
    return (path.name, f"{path.stem}.data")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what is said of constants that are left as they are: the outcome is proven."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript.optimizer")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _read_translations_once() -> None:
    """Let the exporter keep its translations, their signatures and its operators: it reads all anew at each call.

    An exporter of another version that gets them elsewhere reads them as often as it likes.
    """
    for holder, name in READ_ANEW:
        with contextlib.suppress(ImportError, AttributeError):
            place = pkgutil.resolve_name(holder)
            read = getattr(place, name)
            if not hasattr(read, "cache_info"):
                setattr(place, name, functools.cache(read))


def _written_anew(graph: Graph) -> torch.fx.GraphModule:
    """Write what exporter or runtime get wrong, or slow, in another way that means the same.

    Attention as the exporter writes it is no kernel of any runtime: it scales both sides and asks for NaN.
    """
    nodes = copy.deepcopy(graph.module.graph)
    write_out_attention(nodes, graph, zeros=True)
    quantized = any(is_quantizer(node) for node in nodes.nodes)
    for node in list(nodes.nodes):
        if node.target is aten.reshape.default:
            _copy_before(node)
        elif quantized and node.target in REDUCTIONS and argument(node, "dim") and not argument(node, "keepdim"):
            _squeeze_after(node)
        elif quantized and node.target is aten.select.int and isinstance(argument(node, "index"), int):
            _slice_instead(node)
    return torch.fx.GraphModule(graph.module, nodes)


def _copy_before(node: torch.fx.Node) -> None:
    """Copy what is reshaped: ONNX has no strides, but the exporter makes views for those that an operator gave first.

    The copies become Identity, which the exporter's optimizer takes away.
    """
    value = argument(node, "self")
    with node.graph.inserting_before(node):
        copied = node.graph.call_function(aten.clone.default, (value,), {"memory_format": torch.contiguous_format})
    node.replace_input_with(value, copied)


def _squeeze_after(node: torch.fx.Node) -> None:
    """Reduce with the dimension kept, then drop it: behind a reduction that drops it OpenVINO mistakes the channels.

    It gets a mean right that is only quantized, which ONNX Runtime reads as one integer kernel.
    """
    if node.target is aten.mean.dim and all(is_quantizer(user) for user in node.users):
        return
    with node.graph.inserting_after(node):
        squeezed = node.graph.call_function(aten.squeeze.dims, (node, argument(node, "dim")))
    squeezed.meta = dict(node.meta)
    node.replace_all_uses_with(squeezed, delete_user_cb=lambda user: user is not squeezed)
    set_argument(node, "keepdim", True)


def _slice_instead(node: torch.fx.Node) -> None:
    """Cut out what is selected, then drop the dimension: OpenVINO forgets to drop it behind an integer linear layer."""
    value, dim, index = (argument(node, name) for name in ("self", "dim", "index"))
    with node.graph.inserting_before(node):
        end = sys.maxsize if index == -1 else index + 1
        cut = node.graph.call_function(aten.slice.Tensor, (value, dim, index, end))
        squeezed = node.graph.call_function(aten.squeeze.dims, (cut, [dim]))
    cut.meta, squeezed.meta = dict(node.meta), dict(node.meta)
    node.replace_all_uses_with(squeezed)
    node.graph.erase_node(node)


def _name_dimensions(model: onnx.ModelProto, graph: Graph) -> None:
    """The exporter calls them s77 and the like; sessions fix dimensions by name."""
    names: dict[str, str] = {}
    for value, spec in zip(model.graph.input, graph.inputs, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(size, str) and dim.dim_param:
                names[dim.dim_param] = size
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _name_nodes(found: onnx.GraphProto, graph: Graph) -> None:
    """Name what computes a value of the graph by it: the exporter numbers what it fuses, and products before a bias."""
    known = {node.name for node in graph.module.graph.nodes}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in found.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    new: dict[str, str] = {}
    for node in found.node:
        behind = readers.get(node.output[0], [])
        if node.output[0] in known:
            new.setdefault(node.name, f"node_{node.output[0]}")
        elif node.op_type == "MatMul" and [one.op_type for one in behind] == ["Add"] and behind[0].output[0] in known:
            name = f"node_{behind[0].output[0]}"
            new[node.name], new[behind[0].name] = name, f"{name}_bias"
    taken = {node.name for node in found.node} - {*new}
    for node in found.node:
        name = new.get(node.name, node.name)
        if name not in taken:
            taken.add(name)
            node.name = name


def _turn_twins(graph: onnx.GraphProto) -> None:
    """Store a matrix once, and compute it turned over from it: runtimes do so once, when they open the file.

    The exporter stores a weight for each layer that multiplies with it, and anew where it is looked up as well.
    """
    whole: dict[str, onnx.TensorProto] = {}
    same: dict[str, str] = {}
    given_back = {value.name for value in graph.output}
    floats = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    for tensor in [tensor for tensor in floats if len(tensor.dims) == 2 and min(tensor.dims) > 1]:
        if tensor.name in given_back:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        turned, found = (hashlib.sha256(side.tobytes()).hexdigest() for side in (values.T, values))
        equal = whole.setdefault(f"{list(tensor.dims)} {found}", tensor)
        twin = whole.get(f"{list(tensor.dims)[::-1]} {turned}")
        if equal is not tensor:
            same[tensor.name] = equal.name
        elif twin is not None and twin is not tensor:
            graph.node.insert(
                0, onnx.helper.make_node("Transpose", [twin.name], [tensor.name], tensor.name, perm=[1, 0])
            )
            graph.initializer.remove(tensor)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    for tensor in [tensor for tensor in graph.initializer if tensor.name in same]:
        graph.initializer.remove(tensor)


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _culprit(graph: Graph, error: BaseException) -> str:
    text = ""
    seen: BaseException | None = error
    while seen is not None:
        text += str(seen)
        seen = seen.__cause__
    for node in graph.module.graph.nodes:
        if node.op == "call_function" and str(node.target) in text:
            return graph.source(node)
    return "torch.onnx.export"

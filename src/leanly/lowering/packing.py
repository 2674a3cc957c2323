"""Few-bit weights in an ONNX file: one node for a layer that decodes its own, and where the tensors lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from leanly.compact import ITEMS, Span
from leanly.packing import in_the_middle, pack

DOMAIN = "com.microsoft"
INTEGER_PRODUCTS, FLOAT_PRODUCTS = 4, 1
"""ONNX Runtime's accuracy levels: whether what is multiplied is rounded to int8 in blocks."""
SMALLEST = 16
"""Bytes of a tensor that is worth a look."""


def pack_linear_layers(model: onnx.ModelProto, *, bits: Mapping[str, int], integer_products: bool) -> None:
    """Replace each decoded, transposed and multiplied weight by ONNX Runtime's MatMulNBits, which OpenVINO reads too.

    Args:
        model: is changed in place.
        bits: of a code, by the name of the codes' initializer.
        integer_products: the runtime may round activations to int8 as it multiplies.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    gone: set[str] = set()
    nodes = []
    for node in model.graph.node:
        transpose = made.get(node.input[1]) if node.op_type == "MatMul" else None
        cast = made.get(transpose.input[0]) if transpose is not None and transpose.op_type == "Transpose" else None
        decoded = made.get(cast.input[0]) if cast is not None and cast.op_type == "Cast" else cast
        packs = decoded is not None and decoded.op_type == "DequantizeLinear" and decoded.input[0] in bits
        if transpose is None or cast is None or decoded is None or not packs:
            nodes.append(node)
            continue
        width = bits[decoded.input[0]]
        group = next(helper.get_attribute_value(entry) for entry in decoded.attribute if entry.name == "block_size")
        codes, step, zero = (numpy_helper.to_array(tensors[name]) for name in decoded.input)
        arrays = {"packed": pack(codes.reshape(len(codes), -1, group), width), "step": step.reshape(-1)}
        if not in_the_middle(zero, width):
            arrays["zero"] = pack(zero, width).reshape(-1)
        names = [f"{decoded.input[0]}_{part}" for part in arrays]
        for name, array in zip(names, arrays.values(), strict=True):
            if name not in tensors:
                tensors[name] = numpy_helper.from_array(array, name)
                model.graph.initializer.append(tensors[name])
        if step.dtype == np.float16:
            half, names[1] = names[1], f"{names[1]}_single"
            if names[1] not in made:
                made[names[1]] = helper.make_node("Cast", [half], names[1:2], names[1], to=onnx.TensorProto.FLOAT)
                nodes.append(made[names[1]])
        level = INTEGER_PRODUCTS if integer_products else FLOAT_PRODUCTS
        sizes: dict[str, Any] = {"K": codes.shape[1], "N": codes.shape[0], "bits": width, "block_size": group}
        nodes.append(
            helper.make_node(
                "MatMulNBits",
                [node.input[0], *names],
                list(node.output),
                node.name,
                domain=DOMAIN,
                accuracy_level=level,
                **sizes,
            )
        )
        gone |= {decoded.output[0], cast.output[0], transpose.output[0], *decoded.input}
    if not gone:
        return
    del model.graph.node[:]
    model.graph.node.extend(node for node in nodes if not set(node.output) & gone)
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in gone]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    values = [value for value in model.graph.value_info if value.name not in gone]
    del model.graph.value_info[:]
    model.graph.value_info.extend(values)
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def tensor_bytes(content: bytes) -> int:
    """Return the bytes of all tensors in an ONNX file: weights, and whatever it takes to decode and to round."""
    return sum(
        numpy_helper.to_array(tensor).nbytes for tensor in onnx.load_model_from_string(content).graph.initializer
    )


def spans(content: bytes) -> list[Span]:
    """Return where the tensors lie in an ONNX file, each as a matrix with a row for each output."""
    found, taken = [], 0
    for tensor in onnx.load_model_from_string(content).graph.initializer:
        count, size = math.prod(tensor.dims), len(tensor.raw_data)
        if size < SMALLEST or size % count or size // count not in ITEMS:
            continue
        # initializers lie in the order of the list
        offset = content.find(tensor.raw_data, taken)
        rows = tensor.dims[0] if tensor.dims else 1
        found.append(Span(offset, size // count, rows, count // rows))
        taken = found[-1].stop
    return found

"""The tensors that really lie in a file, against the storage bits that are told of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from leanly.artifact import Artifact
from leanly.errors import LoweringError
from leanly.graph import Graph
from leanly.quantize.binary import OF_WEIGHT
from leanly.quantize.quantizers import is_quantizer

if TYPE_CHECKING:
    import onnx

FEW = 16
"""Weights that are stored in fewer bits than this are looked for one by one."""
ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
LARGEST_CONSTANT = 8
"""Bytes of an element of what an exporter computes beforehand."""
BYTES_OF_A_SHAPE = 64
"""What shapes and ends of ranges take, a node of the file."""
STRUCTURE_BYTES, STRUCTURE_OF_A_NODE = 4_000, 1_000
"""Names, attributes and shapes beside the tensors: 150 to 340 bytes a node where names are short."""


class _Held(NamedTuple):
    name: str
    count: int
    bytes: int
    floats: bool


def check_sizes(artifact: Artifact, graph: Graph) -> None:
    """Compare the tensors in an artifact's files, and what lies beside them, with its storage bits.

    Scales and zero points of integers are left out; what the exporter computed beforehand is known from the graph.

    Raises:
        LoweringError: a weight of few bits lies there in float, the tensors take more than they should, or so does
            what is no tensor.
    """
    if artifact.runtime == "torch":
        held, allowed = bytes_in_safetensors(artifact.weights), artifact.stored_bytes
    else:
        import onnx

        model = onnx.load(str(artifact.model), load_external_data=False)
        tensors, nodes = list(_in_onnx(model.graph)), len(model.graph.node)
        constants = _constants(graph)
        _check_few(artifact, tensors, constants)
        held = sum(tensor.bytes for tensor in tensors)
        allowed = artifact.stored_bytes + LARGEST_CONSTANT * sum(constants) + BYTES_OF_A_SHAPE * nodes
        beside = artifact.bytes - held - _rounding_bytes(model.graph)
        if beside > STRUCTURE_BYTES + STRUCTURE_OF_A_NODE * nodes:
            raise _refused(artifact, f"the files hold {beside:,} bytes that are no tensors")
    if held > allowed:
        raise _refused(
            artifact, f"the tensors in the files take {held:,} bytes, their storage bits {artifact.stored_bytes:,}"
        )


def _check_few(artifact: Artifact, tensors: list[_Held], constants: list[int]) -> None:
    """Refuse a float tensor as large as a weight of few bits that is not there in its own bits."""
    present = {tensor.name.removesuffix("_packed") for tensor in tensors if not tensor.floats}
    floats = Counter(tensor.count for tensor in tensors if tensor.floats)
    floats -= Counter(count for bits, count in artifact.storage_bits.values() if bits >= FEW)
    floats -= Counter(constants)
    for name, (bits, count) in artifact.storage_bits.items():
        if 0 < bits < FEW and name not in present and floats[count] > 0:
            raise _refused(artifact, f"{name} should take {bits} bits a value and lies in the file in float")


def _in_onnx(graph: onnx.GraphProto) -> Iterator[_Held]:
    """Yield the tensors of a graph and of the graphs inside it, but for scales and zero points."""
    from onnx import TensorProto, helper

    rounding = _rounding_names(graph)
    inside = [attribute for node in graph.node for attribute in node.attribute]
    for tensor in (*graph.initializer, *(attribute.t for attribute in inside if attribute.HasField("t"))):
        if tensor.name not in rounding:
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            count = math.prod(tensor.dims)
            floats = tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
            yield _Held(tensor.name, count, count * kind.itemsize, floats)
    for attribute in inside:
        if attribute.HasField("g"):
            yield from _in_onnx(attribute.g)


def _rounding_names(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node if node.op_type in ROUNDING for name in node.input[1:]}


def _rounding_bytes(graph: onnx.GraphProto) -> int:
    names = _rounding_names(graph)
    return sum(tensor.ByteSize() for tensor in graph.initializer if tensor.name in names)


def _constants(graph: Graph) -> list[int]:
    """Return the elements of each value that depends on no input, but for rounded weights: those stay as they are."""
    shapes, known, counts = graph.shapes(1), set(), []
    for node in graph.module.graph.nodes:
        fixed = node.op == "call_function" and all(value in known for value in node.all_input_nodes)
        if node.op == "get_attr" or fixed:
            known.add(node)
        if fixed and node.name in shapes and not is_quantizer(node) and node.target is not OF_WEIGHT:
            counts.append(math.prod(shapes[node.name]))
    return counts


def bytes_in_safetensors(path: Path) -> int:
    """Return the bytes of the tensors in a file: those behind its header."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return path.stat().st_size - 8 - header


def _refused(artifact: Artifact, what: str) -> LoweringError:
    return LoweringError(
        what,
        where=str(artifact.folder),
        remedy="report this model: some weights were stored twice or in float",
    )

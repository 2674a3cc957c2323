"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from leanly.artifact import Artifact, Kernel, Plan
from leanly.errors import LoweringError
from leanly.runtimes.predictor import WARM_UP, Arrays, split_rows

INTEGER_OPERATORS = frozenset({
    "QLinearConv", "ConvInteger", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QAttention",
    "DynamicQuantizeMatMul", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearReduceMean",
    "QLinearWhere",
})  # fmt: skip
MOVES = frozenset({
    "NhwcMaxPool", "MaxPool", "Clip", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice",
})  # fmt: skip
"""What comes out has the type of what goes in."""

FLOAT_PRODUCTS = "session.qdq_matmulnbits_accuracy_level"
"""What weights in integers, decoded in front of a product of floats, are multiplied in: 1 is float, else it is int8."""
UNASKED = "WeightBiasQuantization"
"""ONNX Runtime's own rewriting, which would make integers of weights that were kept in float between quantizers."""


class OnnxRuntimeEngine:
    """One session a plan, made when it is first needed."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._artifact = artifact
        self._threads = threads
        self._lock = threading.Lock()
        self._sessions: dict[tuple[int, int], ort.InferenceSession] = {}
        self._names = [spec.name for spec in artifact.inputs]
        self._outputs = [spec.name for spec in artifact.outputs]
        self._batched = [bool(spec.shape) and spec.shape[0] == "batch" for spec in artifact.inputs]
        self._batched_outputs = [bool(spec.shape) and spec.shape[0] == "batch" for spec in artifact.outputs]

    def runner(self, plan: Plan, batch: int) -> Callable[[Arrays], Arrays]:
        """Return a function from flat arrays to flat arrays, safe to call from many threads."""
        rows = plan.rows if 0 < plan.rows < batch else batch
        session = self._session(plan.threads, rows if plan.static and batch % rows == 0 else 0)
        names, outputs = self._names, self._outputs

        def whole(arrays: Arrays) -> Arrays:
            return session.run(outputs, dict(zip(names, arrays, strict=True)))  # type: ignore[return-value]

        if rows == batch or not all(self._batched_outputs):
            return whole
        pool = ThreadPoolExecutor(plan.streams, thread_name_prefix="leanly-stream") if plan.streams > 1 else None

        def cut(arrays: Arrays) -> Arrays:
            pieces = split_rows(arrays, self._batched, rows)
            results = list(pool.map(whole, pieces) if pool else map(whole, pieces))
            return [np.concatenate(parts) for parts in zip(*results, strict=True)]

        return cut

    def kernels(self) -> tuple[Kernel, ...]:
        """Read the nodes of the graph as ONNX Runtime rewrote it for this machine."""
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimized.onnx"
            options = self._options(1, 0)
            options.optimized_model_filepath = str(path)
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
            self._open(options)
            model = onnx.load(str(path), load_external_data=False)
        types = {init.name: init.data_type for init in model.graph.initializer}
        for value in (*model.graph.input, *model.graph.value_info):
            types[value.name] = value.type.tensor_type.elem_type
        for node in model.graph.node:  # what ONNX Runtime put in itself has no types written down
            if node.op_type in MOVES and node.input[0] in types:
                types.setdefault(node.output[0], types[node.input[0]])
            elif node.op_type.startswith("QLinear"):
                types.setdefault(node.output[0], onnx.TensorProto.UINT8)
        return tuple(
            Kernel(node.name or node.output[0], node.op_type, _precision(node, types), node.domain or "ai.onnx")
            for node in model.graph.node
        )

    def node_seconds(self, arrays: Arrays, batch: int, calls: int) -> dict[str, list[float]]:
        """Return the seconds of each node in each call, in this process's threads."""
        with tempfile.TemporaryDirectory() as folder:
            options = self._options(self._threads, batch)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._open(options)
            for _ in range(WARM_UP + calls):
                session.run(self._outputs, dict(zip(self._names, arrays, strict=True)))
            events = json.loads(Path(session.end_profiling()).read_text())
        found: dict[str, list[float]] = {}
        for event in events:
            name, marked, _ = event["name"].rpartition("_kernel_time")
            if event.get("cat") == "Node" and marked:
                found.setdefault(name, []).append(event["dur"] / 1e6)
        return {name: seconds[WARM_UP:] for name, seconds in found.items()}

    def _session(self, threads: int, static: int) -> ort.InferenceSession:
        with self._lock:
            key = (threads, static)
            if key not in self._sessions:
                try:
                    self._sessions[key] = self._open(self._options(threads, static))
                except Exception as error:
                    raise LoweringError(
                        f"ONNX Runtime does not open the model ({str(error).splitlines()[0]})",
                        where=str(self._artifact.model),
                        remedy="copy the folder again, whole, or lower the model again with this onnxruntime",
                    ) from error
            return self._sessions[key]

    def _open(self, options: ort.SessionOptions) -> ort.InferenceSession:
        return ort.InferenceSession(
            str(self._artifact.model), options, providers=["CPUExecutionProvider"], disabled_optimizers=[UNASKED]
        )

    def _options(self, threads: int, static: int) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry(FLOAT_PRODUCTS, "1")
        if static:
            options.add_free_dimension_override_by_name("batch", static)
        return options


def _precision(node: Any, types: dict[str, int]) -> str:
    import onnx

    if node.op_type in INTEGER_OPERATORS or _multiplies_integers(node):
        return "int8"
    names = [*node.input, *node.output]
    found = {types[name] for name in names if name in types}
    eight_bits = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    if found & eight_bits and not found & {onnx.TensorProto.FLOAT}:
        return "int8"
    return "int64" if found and found <= {onnx.TensorProto.INT64, onnx.TensorProto.BOOL} else "float32"


def _multiplies_integers(node: Any) -> bool:
    """Say whether a layer with packed weights rounds what it is given to int8: accuracy level 4."""
    return node.op_type == "MatMulNBits" and any(a.name == "accuracy_level" and a.i == 4 for a in node.attribute)

"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from leanly.artifact import Artifact, Kernel, Plan
from leanly.errors import LoweringError
from leanly.runtimes.compiling import instructions, openvino_extension
from leanly.runtimes.predictor import WARM_UP, Arrays, split_rows

PRECISIONS = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16}
INTEGER = ("int8", "binary")
OWN = "Reference"
"""How OpenVINO calls an operation of an extension."""
SHOWN = {
    "f32": "float32",
    "bf16": "bfloat16",
    "f16": "float16",
    "i8": "int8",
    "u8": "int8",
    "i32": "int32",
    "i64": "int64",
}


class OpenVinoEngine:
    """One compiled model a plan, made when it is first needed."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._artifact = artifact
        self._threads = threads
        self._lock = threading.Lock()
        self._core = ov.Core()
        if artifact.precision == "binary":
            self._core.add_extension(str(openvino_extension()))
        self._compiled: dict[tuple[int, int, int, bool], ov.CompiledModel] = {}
        self._batched = [bool(spec.shape) and spec.shape[0] == "batch" for spec in artifact.inputs]
        self._batched_outputs = [bool(spec.shape) and spec.shape[0] == "batch" for spec in artifact.outputs]

    def runner(self, plan: Plan, batch: int) -> Callable[[Arrays], Arrays]:
        """Return a function from flat arrays to flat arrays, safe to call from many threads."""
        rows = plan.rows if 0 < plan.rows < batch and all(self._batched_outputs) else batch
        compiled = self._compile(plan.threads, plan.streams, rows if plan.static and batch % rows == 0 else 0)
        if rows == batch:
            return _whole(compiled)
        return _cut(compiled, self._batched, rows, plan.streams)

    def kernels(self) -> tuple[Kernel, ...]:
        """Read the nodes of OpenVINO's executable graph: precision is what the primitive computes in."""
        compiled = next(iter(self._compiled.values()), None) or self._compile(self._threads, 1, 0)
        own = instructions() if self._artifact.precision == "binary" else ""
        return tuple(_kernel(node, own) for node in compiled.get_runtime_model().get_ordered_ops())

    def node_seconds(self, arrays: Arrays, batch: int, calls: int) -> dict[str, list[float]]:
        """Return the seconds of each executed node in each call, in this process's threads."""
        compiled = self._compile(self._threads, 1, batch, profiled=True)
        request = compiled.create_infer_request()
        _feed(request, arrays)
        found: dict[str, list[float]] = {}
        for call in range(WARM_UP + calls):
            request.infer(share_outputs=True)
            for node in request.profiling_info if call >= WARM_UP else ():
                if node.status == ov.ProfilingInfo.Status.EXECUTED:
                    found.setdefault(node.node_name, []).append(node.real_time.total_seconds())
        return found

    def _compile(self, threads: int, streams: int, static: int, profiled: bool = False) -> ov.CompiledModel:
        with self._lock:
            key = (threads, streams, static, profiled)
            if key not in self._compiled:
                artifact = self._artifact
                wanted = artifact.rest if artifact.precision in INTEGER else artifact.precision
                settings = {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": (threads or self._threads) * streams,
                    "NUM_STREAMS": streams,
                    "INFERENCE_PRECISION_HINT": PRECISIONS[wanted],
                    "PERF_COUNT": profiled,
                }
                if artifact.precision not in INTEGER:
                    # products of packed weights stay float: else what they are given is rounded to int8 in groups
                    settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
                try:
                    model = self._core.read_model(str(artifact.model))
                    if static:
                        model.reshape(_fixed(model, artifact, static))
                    if static and artifact.precision == "binary":
                        _put_channels_last(model)
                    self._compiled[key] = self._core.compile_model(model, "CPU", settings)
                except RuntimeError as error:
                    raise LoweringError(
                        f"OpenVINO does not open the model ({str(error).strip().splitlines()[-1]})",
                        where=str(artifact.model),
                        remedy="copy the folder again, whole, or lower the model again with this openvino",
                    ) from error
            return self._compiled[key]


def _fixed(model: ov.Model, artifact: Artifact, batch: int) -> dict[int, ov.PartialShape]:
    shapes = {}
    for index, spec in enumerate(artifact.inputs):
        shapes[index] = model.inputs[index].get_partial_shape()
        if spec.shape and spec.shape[0] == "batch":
            shapes[index][0] = batch
    return shapes


def _put_channels_last(model: ov.Model) -> None:
    """Give the kernel of signs images with their channels last, as OpenVINO keeps them where it convolves.

    Where shapes are known it sees that nothing has to be moved; where they are not it would move everything.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "BinaryConvolution":
            readers = node.output(0).get_target_inputs()
            image = node.input(0)
            last = ops.transpose(image.get_source_output(), np.array([0, 2, 3, 1]))
            image.replace_source_output(last.output(0))
            node.set_attribute("channels_last", True)
            node.validate_and_infer_types()
            first = ops.transpose(node.output(0), np.array([0, 3, 1, 2]))
            for reader in readers:
                reader.replace_source_output(first.output(0))


class _Requests:
    """Idle infer requests of one compiled model; taking and giving back is atomic."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._compiled = compiled
        self._idle: deque[ov.InferRequest] = deque()
        self.outputs = range(len(compiled.outputs))

    def take(self) -> ov.InferRequest:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()

    def give(self, request: ov.InferRequest) -> None:
        self._idle.append(request)


def _feed(request: ov.InferRequest, arrays: Arrays) -> None:
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))


def _whole(compiled: ov.CompiledModel) -> Callable[[Arrays], Arrays]:
    requests = _Requests(compiled)

    def run(arrays: Arrays) -> Arrays:
        request = requests.take()
        _feed(request, arrays)
        request.infer(share_outputs=True)
        outputs = [request.get_output_tensor(index).data.copy() for index in requests.outputs]
        requests.give(request)
        return outputs

    return run


def _cut(compiled: ov.CompiledModel, batched: list[bool], rows: int, streams: int) -> Callable[[Arrays], Arrays]:
    requests = _Requests(compiled)

    def collect(request: ov.InferRequest) -> Arrays:
        request.wait()
        outputs = [request.get_output_tensor(index).data.copy() for index in requests.outputs]
        requests.give(request)
        return outputs

    def run(arrays: Arrays) -> Arrays:
        running: deque[ov.InferRequest] = deque()
        results: list[Arrays] = []
        for piece in split_rows(arrays, batched, rows):
            if len(running) > streams:
                results.append(collect(running.popleft()))
            request = requests.take()
            _feed(request, piece)
            request.start_async()
            running.append(request)
        results.extend(collect(request) for request in running)
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]

    return run


def _kernel(node: Any, own: str) -> Kernel:
    """Read what a node runs in; `own` are the instructions of leanly's kernel, where the artifact needs it."""
    info = node.get_rt_info()
    primitive = _text(info, "primitiveType")
    operator = _text(info, "layerType")
    if own and operator == OWN:
        return Kernel(node.get_friendly_name(), "Signs", "binary", own)
    precision = _text(info, "runtimePrecision")
    if primitive.endswith(("_bf16", "_f32")):
        precision = primitive.rsplit("_", 1)[1]
    return Kernel(node.get_friendly_name(), operator, SHOWN.get(precision.lower(), precision.lower()), primitive)


def _text(info: Any, key: str) -> str:
    if key not in info:
        return ""
    value = info[key]
    return str(value.astype(str) if hasattr(value, "astype") else value)

"""The float files that every peer starts from: ONNX from PyTorch's exporter, and OpenVINO IR from PyTorch itself."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.models.subjects import Arrays, Subject, float_outputs

OPSET = 21
CHECKED_BATCHES = (1, 3, 16)


def export_onnx(subject: Subject, model: nn.Module, inputs: Arrays, path: Path) -> None:
    """Write the float network as ONNX with a dynamic batch, and compare it with PyTorch at three batch sizes."""
    example = tuple(torch.from_numpy(array[:2]) for array in inputs)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(subject.input_names),
            output_names=["output"],
            dynamic_shapes=tuple({0: batch} for _ in example),
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch.onnx.export gave nothing for {subject.name}")
    program.save(path, external_data=False)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(arrays: Arrays) -> np.ndarray:
        return np.asarray(session.run(None, dict(zip(subject.input_names, arrays, strict=True)))[0])

    _check(f"{subject.name} as ONNX", model, inputs, run)


def export_ir(subject: Subject, model: nn.Module, inputs: Arrays, path: Path) -> None:
    """Write the float network as OpenVINO reads it from PyTorch, without the detour through ONNX."""
    import openvino as ov

    example = tuple(torch.from_numpy(array[:2]) for array in inputs)
    shapes = [ov.PartialShape([-1, *array.shape[1:]]) for array in inputs]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ov.convert_model(model, example_input=example, input=shapes)
    for port, name in zip(converted.inputs, subject.input_names, strict=True):
        port.get_tensor().set_names({name})
    ov.save_model(converted, path, compress_to_fp16=False)
    compiled = ov.Core().compile_model(
        path, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": ov.Type.f32}
    )
    _check(f"{subject.name} as IR", model, inputs, lambda arrays: np.asarray(compiled(list(arrays))[0]))


def _check(what: str, model: nn.Module, inputs: Arrays, run, tolerance: float = 2e-3) -> None:
    for batch in CHECKED_BATCHES:
        part = tuple(array[:batch] for array in inputs)
        wanted, got = float_outputs(model, part), run(part)
        off = np.abs(got - wanted).max() / np.abs(wanted).max() if got.shape == wanted.shape else np.inf
        if not off < tolerance:
            raise RuntimeError(f"{what} is off by {off:.2g} of the largest output at batch {batch}")

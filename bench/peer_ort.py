"""ONNX Runtime's static quantizer at its strongest settings: QDQ, per-channel, its three calibrations."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from bench.models.subjects import Arrays, Subject
from bench.peers import VNNI, Peer, calibration, work

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
ACTIVATIONS = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
WIDTHS = ("",) if VNNI else ("", "-half")
"""All 8 bits, or half the range."""
SCOPES = ("all", "matmul")
"""What is quantized where there is a mask, whose -3e38 ruins every scale: all but what it reaches, or products only."""


def onnxruntime(subject: Subject, quick: bool = False) -> Iterator[Peer]:
    """Yield the QDQ files over the quantizer's settings, and make those that are not there yet.

    Args:
        subject: its float ONNX and its calibration rows were written by `bench.peers.prepare`.
        quick: one calibration only.
    """
    logging.getLogger().setLevel(logging.ERROR)
    processed = _processed(subject)
    masks = _mask_nodes(processed)
    methods = ("minmax",) if quick else tuple(METHODS)
    scopes = SCOPES if masks else ("all",)
    for method, activation, scope, width in itertools.product(methods, ACTIVATIONS, scopes, WIDTHS):
        name = f"{method}-{activation}" + (f"-{scope}" if masks else "") + width
        path = work(subject) / "ort" / name / "model.onnx"
        refused = path.with_name("refused.txt")
        if refused.exists():
            continue
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _quantize(subject, processed, path, method, activation, scope, masks, bool(width))
            except Exception as error:  # it fails on some networks; the race goes on without this setting
                refused.write_text(f"{error!r}\n")
                print(f"{subject.name}: ONNX Runtime refuses {name}: {error!r}", flush=True)
                continue
            print(f"{subject.name}: ONNX Runtime {name}", flush=True)
        yield Peer("ort", name, path, "int8")


def _processed(subject: Subject) -> Path:
    """Return the float network as ONNX Runtime's own preparation leaves it."""
    folder = work(subject) / "ort"
    processed, writing = folder / "processed.onnx", folder / "writing.onnx"
    if not processed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = str(work(subject) / "float.onnx")
        try:
            quant_pre_process(source, str(writing))
        except Exception as error:  # its symbolic inference does not know every network
            print(f"{subject.name}: ONNX Runtime's symbolic shape inference is left out: {error!r}", flush=True)
            quant_pre_process(source, str(writing), skip_symbolic_shape=True)
        writing.replace(processed)
    return processed


def _quantize(
    subject: Subject,
    processed: Path,
    path: Path,
    method: str,
    activation: str,
    scope: str,
    masks: list[str],
    half: bool,
) -> None:
    rows = _Rows(subject.input_names, calibration(subject))
    writing = path.with_name("writing.onnx")
    ranges = work(subject) / "ort" / f"{method}{f'-{scope}' if masks else ''}.json"
    quantize_static(
        processed,
        writing,
        rows,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"] if scope == "matmul" else None,
        nodes_to_exclude=masks,
        per_channel=True,
        reduce_range=half,
        activation_type=ACTIVATIONS[activation],
        weight_type=QuantType.QInt8,
        calibrate_method=METHODS[method],
        calibration_cache_path=ranges,
        extra_options={"CalibStridedMinMax": rows.stride},
    )
    writing.replace(path)


def _mask_nodes(path: Path) -> list[str]:
    """Name the nodes that an attention mask reaches, up to and with the first that joins it with activations."""
    graph = onnx.load(str(path), load_external_data=False).graph
    reached = {value.name for value in graph.input if "mask" in value.name}
    others = {value.name for value in graph.input} - reached
    named = []
    for node in graph.node:
        if node.op_type == "Shape":
            continue
        from_mask = any(name in reached for name in node.input)
        from_others = any(name in others for name in node.input)
        if from_mask:
            named.append(node.name)
        (others if from_others else reached if from_mask else set()).update(node.output)
    return named


class _Rows(CalibrationDataReader):
    """Calibration rows one at a time, in pieces: the quantizer keeps every activation of a piece in memory."""

    def __init__(self, names: tuple[str, ...], arrays: Arrays) -> None:
        self._names, self._arrays = names, arrays
        self._rows = iter(range(len(arrays[0])))
        self.stride = max(size for size in range(1, 26) if len(arrays[0]) % size == 0)

    def __len__(self) -> int:
        return len(self._arrays[0])

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rows = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self._rows, None)
        if row is None:
            return None
        return {name: array[row : row + 1] for name, array in zip(self._names, self._arrays, strict=True)}

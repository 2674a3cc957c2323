"""An artifact proven after it was written: the graph's outputs at three batch sizes, its size, its kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from leanly.artifact import Artifact
from leanly.errors import LeanlyError, LoweringError
from leanly.graph import Graph
from leanly.graph.explaining import first_line
from leanly.lowering.parity import check_steps
from leanly.lowering.sizes import check_sizes
from leanly.quantize.binary import multiplies_signs
from leanly.runtimes import RuntimePredictor, open_artifact

BATCHES = (1, 3, 8)
LEAST_SQNR = {"float32": 50.0, "bfloat16": 15.0, "int8": 12.0, "binary": 12.0}
"""Decibels of signal to difference below which an artifact does not do what its graph does."""


def prove(artifact: Artifact, graph: Graph) -> Artifact:
    """Return the artifact with its kernels recorded, after comparing it with the graph.

    Raises:
        LoweringError: outputs differ, the files hold more than their storage bits, or int8 without integer kernels.
    """
    predictor = open_artifact(artifact)
    _compare(predictor, graph)
    if artifact.precision == "int8":
        check_steps(artifact, graph, BATCHES)
    check_sizes(artifact, graph)
    kernels = predictor.kernels()
    in_integers = any(kernel.precision == "int8" and _computes(kernel) for kernel in kernels)
    if artifact.precision == "int8" and not in_integers:
        if not multiplies_signs(graph):
            raise LoweringError(
                f"no kernel of the int8 model runs in integers in {artifact.runtime}",
                where=str(artifact.model),
                remedy=f'use Static(kernels="{artifact.runtime}"), another runtime, or keep the model in float',
            )
        artifact = replace(artifact, precision="float32")  # signs are stored in a bit each, and multiplied as floats
    return replace(artifact, proven=kernels)


def _computes(kernel: object) -> bool:
    operator = kernel.operator.lower()  # type: ignore[attr-defined]
    return any(part in operator for part in ("conv", "matmul", "gemm", "fullyconnected", "attention"))


def _compare(predictor: RuntimePredictor, graph: Graph) -> None:
    artifact = predictor.artifact
    for batch in BATCHES:
        inputs = graph.example_batch(batch)
        with torch.no_grad():
            expected = [output.float().numpy() for output in graph.flat(*inputs)]
        try:
            found = predictor.run([np.ascontiguousarray(tensor.numpy()) for tensor in inputs])
        except Exception as error:
            told = error.what if isinstance(error, LeanlyError) else f"it fails at batch {batch}: {first_line(error)}"
            raise LoweringError(
                f"{artifact.runtime} can't run what was written for it: {told}",
                where=str(artifact.model),
                remedy='use another runtime: "torch" runs whatever was captured',
            ) from error
        for spec, want, have in zip(graph.outputs, expected, found, strict=True):
            if want.shape != have.shape:
                raise LoweringError(
                    f"output {spec.name} has shape {have.shape} at batch {batch}, the graph gives {want.shape}",
                    where=str(artifact.model),
                    remedy="report this model; lower it for another runtime meanwhile",
                )
            quality = sqnr(want, have)
            if quality < LEAST_SQNR[artifact.precision]:
                raise LoweringError(
                    f"output {spec.name} differs from the graph's at batch {batch}: {quality:.1f} dB, "
                    f"at least {LEAST_SQNR[artifact.precision]:.0f} dB expected of {artifact.precision}",
                    where=str(artifact.model),
                    remedy="try another runtime or precision",
                )


def sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the ratio of signal to difference in decibels; infinity for equal arrays."""
    signal = float((expected.astype(np.float64) ** 2).sum())
    noise = float(((expected.astype(np.float64) - found.astype(np.float64)) ** 2).sum())
    if not np.isfinite(noise):
        return float("-inf")
    if noise <= 1e-14 * max(signal, 1.0):
        return float("inf")
    return 10 * float(np.log10(max(signal, 1e-300) / noise))

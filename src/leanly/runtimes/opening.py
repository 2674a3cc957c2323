"""Artifact -> Predictor: the one place that knows which file opens which runtime."""

from __future__ import annotations

import os

from leanly.artifact import RUNTIMES, Artifact, Kernel
from leanly.errors import MissingExtra, SettingError
from leanly.runtimes.predictor import RuntimePredictor


def open_artifact(artifact: Artifact, *, threads: int | None = None) -> RuntimePredictor:
    """Open an artifact in its runtime.

    Args:
        artifact: what `lower` made.
        threads: worker threads for batch sizes the artifact has no plan for; default all cores.

    Raises:
        MissingExtra: the runtime is not installed.
        SettingError: a runtime that leanly does not know.
    """
    if threads is not None and threads < 1:
        raise SettingError(f"threads is {threads}", where="opening an artifact", remedy="give 1 or more, or none")
    threads = threads or os.cpu_count() or 1
    try:
        if artifact.runtime == "onnxruntime":
            from leanly.runtimes.onnxruntime import OnnxRuntimeEngine as engine
        elif artifact.runtime == "openvino":
            from leanly.runtimes.openvino import OpenVinoEngine as engine
        elif artifact.runtime == "torch":
            from leanly.runtimes.torch import TorchEngine as engine
        else:
            raise SettingError(
                f"unknown runtime {artifact.runtime!r}", where="artifact", remedy=f"use one of {', '.join(RUNTIMES)}"
            )
    except ImportError as error:
        raise MissingExtra(
            f"{artifact.runtime} can't be imported ({error})",
            where=str(artifact.folder),
            remedy=f'pip install "leanly[{artifact.runtime}]"',
        ) from error
    return RuntimePredictor(artifact, engine(artifact, threads), threads)


def read_kernels(artifact: Artifact) -> tuple[Kernel, ...]:
    """Open an artifact and read which precision each of its nodes runs in on this machine."""
    return open_artifact(artifact).kernels()

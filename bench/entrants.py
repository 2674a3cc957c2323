"""Entrants: the files of leanly and of its peers, all as artifacts, so that one code opens, times and scores them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.models.subjects import Arrays, Subject
from bench.peers import Peer
from leanly.artifact import Artifact, Plan
from leanly.runtimes import open_artifact
from leanly.structure import TensorSpec
from leanly.target import Target

BATCHES = (1, 16)
THREADS = 2
SCORED_ROWS = 50
"""Rows in a call while scoring."""


@dataclass(frozen=True)
class Entrant:
    """One artifact in the race.

    Args:
        family: whom it belongs to: "NNCF in OpenVINO", "ONNX Runtime QDQ in OpenVINO" ...
        name: the settings that made it and those it is opened with.
        artifact: opened by leanly's own runtimes.
        twin: entrants with the same twin have the same nodes at other constants, so the same speed.
    """

    family: str
    name: str
    artifact: Artifact
    twin: str

    @property
    def label(self) -> str:
        return f"{self.family}, {self.name}"

    @property
    def key(self) -> str:
        """A hash over its files and how it is opened."""
        hasher = hashlib.sha256(repr((self.artifact.runtime, self.artifact.rest, self.artifact.plans)).encode())
        for name in self.artifact.files:
            path = self.artifact.folder / name
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                hasher.update(file.read_bytes())
        return hasher.hexdigest()[:20]


def entrants(subject: Subject, inputs: Arrays, outputs: np.ndarray, peer: Peer) -> Iterator[Entrant]:
    """Yield every way in which a peer's file can be opened.

    In OpenVINO what is not integer runs in bf16, where the machine has it, or float32, and the shape is dynamic or
    compiled for the batch.

    Args:
        subject: names the inputs.
        inputs, outputs: some rows, for their shapes.
        peer: the file.
    """
    onnx = peer.path.suffix == ".onnx"
    if onnx and (peer.precision == "int8" or peer.name == "onnx"):
        artifact = _artifact(subject, inputs, outputs, peer, "onnxruntime", "float32")
        family = "ONNX Runtime QDQ" if peer.precision == "int8" else "ONNX Runtime float32"
        yield Entrant(family, peer.name, artifact, _twin(peer) + "/ort")
    for rest in ("bfloat16", "float32") if Target("cpu").bf16 else ("float32",):
        for static in (True, False):
            artifact = _artifact(subject, inputs, outputs, peer, "openvino", rest)
            plans = {size: Plan(threads=THREADS, static=static) for size in BATCHES}
            shape = "static" if static else "dynamic"
            shown = "bf16" if rest == "bfloat16" else "float32"
            if peer.precision == "int8":
                family = "NNCF in OpenVINO" if peer.family == "nncf" else "ONNX Runtime QDQ in OpenVINO"
                name = f"{peer.name}, rest {shown}, {shape}"
            else:
                family, name = f"OpenVINO {shown}", f"from {peer.name}, {shape}"
            yield Entrant(family, name, artifact.with_plans(plans), f"{_twin(peer)}/{rest}/{shape}")


def outputs_of(artifact: Artifact, inputs: Arrays, threads: int = 1) -> np.ndarray:
    """Return what an artifact gives for all rows, in order; its plans are left aside, they don't change the numbers."""
    predictor = open_artifact(replace(artifact, plans={}), threads=threads)
    parts = []
    for start in range(0, len(inputs[0]), SCORED_ROWS):
        parts.append(predictor.run([array[start : start + SCORED_ROWS] for array in inputs])[0])
    return np.concatenate(parts)


def _artifact(subject: Subject, inputs: Arrays, outputs: np.ndarray, peer: Peer, runtime: str, rest: str) -> Artifact:
    specs = tuple(
        TensorSpec(name, str(array.dtype), ("batch", *array.shape[1:]))
        for name, array in zip(subject.input_names, inputs, strict=True)
    )
    weights = [peer.path.with_suffix(".bin")] if peer.path.suffix == ".xml" else []
    return Artifact(
        folder=peer.path.parent,
        runtime=runtime,
        precision="int8" if peer.precision == "int8" else rest,
        rest=rest,
        files=tuple(path.name for path in [Path(peer.path), *weights]),
        inputs=specs,
        outputs=(TensorSpec("output", "float32", ("batch", *outputs.shape[1:])),),
        arguments={"tuple": [{"tuple": list(range(len(specs)))}, {"dict": {}}]},
        returns=0,
    )


def _twin(peer: Peer) -> str:
    """Bias correction and calibration change constants only; the other settings change which nodes there are."""
    if peer.family == "nncf":
        source, preset, _, device = peer.name.split("-")
        return f"nncf/{source}-{preset}-{device}"
    if peer.family == "ort":
        return f"ort/{peer.name.split('-', 1)[1]}"
    return f"float/{peer.name}"

"""Inputs to time with: rows of a split, the example tiled, or made up from the artifact's own description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leanly.artifact import Artifact
from leanly.errors import DataError
from leanly.structure import TensorSpec, misfit

if TYPE_CHECKING:
    from leanly.data import Split
    from leanly.task import Task

VARYING = 16
"""Size of a dimension that varies, besides the batch, where there is no example to tell it."""


def timing_inputs(
    artifact: Artifact, task: Task | None, split: Split | None, sizes: Sequence[int]
) -> dict[int, list[np.ndarray]]:
    """Return flat arrays for each batch size: the first rows of the split, else of the example, else made up.

    Args:
        artifact: its inputs say which carry the batch.
        task: gives the example.
        split: gives the rows; too few are repeated.
        sizes: rows wanted.
    """
    if task is None:
        return {size: [made_up(spec, size, seed) for seed, spec in enumerate(artifact.inputs)] for size in sizes}
    tensors: Sequence[Any] = task.arguments.tensors
    if split is not None:
        tensors = next(iter(split.flat_batches(max(sizes), limit=max(sizes))))[0]
    pairs = list(zip(flat_arrays(artifact, tensors), artifact.inputs, strict=True))
    return {size: [_tiled(array, size) if carries_batch(spec) else array for array, spec in pairs] for size in sizes}


def flat_arrays(artifact: Artifact, tensors: Sequence[Any]) -> list[np.ndarray]:
    """Return tensors as contiguous numpy arrays of the dtypes that the artifact takes.

    Raises:
        DataError: another number of inputs, another kind of dtype, or other shapes.
    """
    check_fit(artifact, tensors)
    return [_array(tensor, spec) for tensor, spec in zip(tensors, artifact.inputs, strict=True)]


def check_fit(artifact: Artifact, tensors: Sequence[Any]) -> None:
    """Raise a DataError where an artifact takes another number of inputs than these, or others of shape."""
    problem = ""
    if len(tensors) != len(artifact.inputs):
        problem = f"the data has {len(tensors)} inputs, the artifact takes {len(artifact.inputs)}"
    elif found := misfit(tensors, artifact.inputs):
        problem = f"input {artifact.inputs[found[0]].name} of the data {found[1]}"
    if problem:
        raise DataError(
            problem, where=str(artifact.folder), remedy="measure an artifact with the task it was made from"
        )


def carries_batch(spec: TensorSpec) -> bool:
    """Say whether dimension 0 of a tensor is the batch."""
    return bool(spec.shape) and spec.shape[0] == "batch"


def made_up(spec: TensorSpec, rows: int, seed: int = 0) -> np.ndarray:
    """Return an array that fits a description: normal floats, ones where whole numbers are asked (a safe index)."""
    shape = tuple(rows if size == "batch" else VARYING if isinstance(size, str) else size for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind != "f":
        return np.ones(shape, dtype)
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _tiled(array: np.ndarray, rows: int) -> np.ndarray:
    return np.ascontiguousarray(array[np.arange(rows) % len(array)])


def _array(tensor: Any, spec: TensorSpec) -> np.ndarray:
    array = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor)
    wanted = np.dtype(spec.dtype)
    if array.dtype != wanted:
        if (array.dtype.kind == "f") != (wanted.kind == "f"):
            raise DataError(
                f"input {spec.name} is {array.dtype}, the artifact takes {wanted}",
                where=spec.name,
                remedy=f"convert the data as the training data was converted, then to {wanted}",
            )
        array = array.astype(wanted)
    return np.ascontiguousarray(array)

"""One Predictor over every runtime: structures in and out, checks, and rows spread over streams."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from leanly.artifact import Artifact, Kernel, Plan
from leanly.errors import DataError
from leanly.structure import TensorSpec, build, flatten, misfit

Arrays = list[np.ndarray]
WARM_UP = 3
"""Calls that a profile does not count."""


class Engine(Protocol):
    """What a runtime gives: a way to run one plan, and its list of kernels."""

    def runner(self, plan: Plan, batch: int) -> Callable[[Arrays], Arrays]:
        """Return a function from flat arrays to flat arrays, safe to call from many threads."""
        ...

    def kernels(self) -> tuple[Kernel, ...]:
        """Read each node and its precision from the opened runtime."""
        ...

    def node_seconds(self, arrays: Arrays, batch: int, calls: int) -> dict[str, list[float]]:
        """Return the seconds of each node in each call, as the runtime's own profiler counts them."""
        ...


class RuntimePredictor:
    """An opened artifact; safe to call from many threads.

    Args:
        artifact: what is opened.
        engine: the runtime that holds it.
        threads: worker threads for batch sizes without a plan.
    """

    def __init__(self, artifact: Artifact, engine: Engine, threads: int) -> None:
        self.artifact = artifact
        self._engine = engine
        self._default = Plan(threads=threads)
        self._runners: dict[int, Callable[[Arrays], Arrays]] = {}
        batched = [i for i, spec in enumerate(artifact.inputs) if spec.shape and spec.shape[0] == "batch"]
        self._batch_input = batched[0] if batched else None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take numpy arrays or torch tensors, give the same kind back in the model's own structure."""
        structure, leaves = flatten((args, kwargs))
        if structure != self.artifact.arguments:
            raise DataError(
                f"the call has {_describe(structure)}, the model takes {_describe(self.artifact.arguments)}",
                where="predictor",
                remedy="call it as the captured model was called",
            )
        torch = sys.modules.get("torch")
        as_torch = torch is not None and any(isinstance(leaf, torch.Tensor) for leaf in leaves)
        arrays = [_array(leaf, spec) for leaf, spec in zip(leaves, self.artifact.inputs, strict=True)]
        self._check(arrays)
        outputs: Sequence[Any] = self.run(arrays)
        if as_torch and torch is not None:
            outputs = [torch.from_numpy(output) for output in outputs]
        return build(self.artifact.returns, outputs)

    def run(self, arrays: Arrays) -> Arrays:
        """Take flat numpy arrays in the artifact's order, give flat numpy arrays."""
        batch = self._batch(arrays)
        runner = self._runners.get(batch)
        if runner is None:
            runner = self._runners.setdefault(batch, self._engine.runner(self._plan(batch), batch))
        return runner(arrays)

    def kernels(self) -> tuple[Kernel, ...]:
        """Read from the runtime which precision each node runs in."""
        return self._engine.kernels()

    def node_seconds(self, arrays: Arrays, calls: int) -> dict[str, float]:
        """Run flat numpy arrays and return the median seconds of each node; empty where a runtime does not tell.

        The runtime's own profiler counts, with the artifact's own threads; what it adds is in no other figure.
        """
        found = self._engine.node_seconds(arrays, self._batch(arrays), calls)
        return {name: float(np.median(seconds)) for name, seconds in found.items()}

    def _batch(self, arrays: Arrays) -> int:
        return 1 if self._batch_input is None else arrays[self._batch_input].shape[0]

    def _plan(self, batch: int) -> Plan:
        plans = self.artifact.plans
        if batch in plans:
            return plans[batch]
        if not plans:
            return self._default
        nearest = plans[min(plans, key=lambda size: abs(size - batch))]
        return Plan(threads=max(nearest.threads * nearest.streams, 1))

    def _check(self, arrays: Arrays) -> None:
        if found := misfit(arrays, self.artifact.inputs):
            position, problem = found
            array, spec = arrays[position], self.artifact.inputs[position]
            raise DataError(
                f"input {spec.name} {problem}",
                where=f"{spec.name}: shape {tuple(array.shape)}, expected {spec.shape}",
                remedy="give the model inputs shaped like its example",
            )


def split_rows(arrays: Arrays, batched: Sequence[bool], rows: int) -> list[Arrays]:
    """Cut the batched arrays into calls of at most `rows` rows; the others go whole into each."""
    total = next(array.shape[0] for array, cut in zip(arrays, batched, strict=True) if cut)
    starts = range(0, total, rows)
    return [
        [array[start : start + rows] if cut else array for array, cut in zip(arrays, batched, strict=True)]
        for start in starts
    ]


def _array(leaf: Any, spec: TensorSpec) -> np.ndarray:
    if not isinstance(leaf, np.ndarray):
        leaf = leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else np.asarray(leaf)
    if str(leaf.dtype) != spec.dtype:
        if np.issubdtype(leaf.dtype, np.integer) != np.issubdtype(np.dtype(spec.dtype), np.integer):
            raise DataError(
                f"input {spec.name} is {leaf.dtype}, the model takes {spec.dtype}",
                where=spec.name,
                remedy=f"convert it as the training data was converted, then to {spec.dtype}",
            )
        leaf = leaf.astype(spec.dtype)
    return np.ascontiguousarray(leaf)


def _describe(structure: Any) -> str:
    args, kwargs = structure["tuple"]
    names = ", ".join(kwargs["dict"])
    return f"{len(args['tuple'])} positional arguments" + (f" and the keywords {names}" if names else "")

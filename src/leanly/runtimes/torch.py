"""PyTorch: the captured graph compiled by torch.compile, or eager where no compiler is there (said so)."""

from __future__ import annotations

import contextlib
import shutil
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch

from leanly.artifact import EAGER, Artifact, Kernel, Plan
from leanly.errors import LeanlyWarning
from leanly.graph import Graph
from leanly.runtimes.predictor import Arrays


def compiler_found() -> bool:
    """Say whether torch.compile can build kernels here (it needs a C++ compiler)."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


class TorchEngine:
    """The graph in eval mode under no_grad; bfloat16 by autocast."""

    def __init__(self, artifact: Artifact, threads: int) -> None:
        self._artifact = artifact
        torch.set_num_threads(threads)
        graph = Graph.open(artifact.model)
        graph.eval()
        self.compiled = EAGER not in artifact.notes
        if self.compiled and not compiler_found():
            self.compiled = False
            warnings.warn(
                "torch.compile needs a C++ compiler and none was found: the graph runs eager (apt-get install g++)",
                LeanlyWarning,
                stacklevel=2,
            )
        self._graph = graph
        self._module: Callable[..., tuple[torch.Tensor, ...]] = graph.module
        if self.compiled:
            self._module = torch.compile(graph.module, dynamic=False)
        self._bfloat16 = artifact.precision == "bfloat16"
        self._lock = threading.Lock()

    def runner(self, plan: Plan, batch: int) -> Callable[[Arrays], Arrays]:
        """Return a function from flat arrays to flat arrays; one call runs at a time."""
        module, lock = self._module, self._lock

        def run(arrays: Arrays) -> Arrays:
            with lock, torch.inference_mode(), self._cast():
                outputs = module(*(torch.from_numpy(array) for array in arrays))
            return [
                (output.float() if output.dtype == torch.bfloat16 else output).contiguous().numpy()
                for output in outputs
            ]

        return run

    def kernels(self) -> tuple[Kernel, ...]:
        """List the graph's operators with the dtype that each was seen to give."""
        how = "torch.compile" if self.compiled else EAGER
        seen = _Dtypes(self._graph.module)
        with torch.no_grad(), self._cast():
            seen.run(*self._graph.example)
        return tuple(
            Kernel(node.name, str(node.target).removeprefix("aten.").split(".")[0], seen.dtypes.get(node.name, ""), how)
            for node in self._graph.module.graph.nodes
            if node.op == "call_function"
        )

    def node_seconds(self, arrays: Arrays, batch: int, calls: int) -> dict[str, list[float]]:
        """Tell nothing: compiled code has no nodes."""
        return {}

    def _cast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self._bfloat16 else contextlib.nullcontext()


class _Dtypes(torch.fx.Interpreter):
    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.dtypes: dict[str, str] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.dtypes[n.name] = str(value.dtype).removeprefix("torch.")
        return value

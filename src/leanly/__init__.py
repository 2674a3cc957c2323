"""From a trained PyTorch module to the fastest artifact inside a budget, with the measurements that prove it.

The names below are the public face; each is imported when it is first used, so that `import leanly` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> where it lives; "" where the name is the module itself.
_HOMES = {
    "Artifact": "leanly.artifact",
    "Budget": "leanly.budget",
    "Graph": "leanly.graph",
    "LeanlyError": "leanly.errors",
    "LeanlyWarning": "leanly.errors",
    "Metric": "leanly.metrics",
    "Recipe": "leanly.recipe",
    "Target": "leanly.target",
    "Task": "leanly.task",
    "bundle": "",
    "capture": "leanly.graph",
    "compare": "leanly.measurement",
    "distill": "",
    "load": "leanly.bundle",
    "lower": "leanly.lowering",
    "measure": "leanly.measurement",
    "optimize": "leanly.pipeline",
    "prune": "",
    "quantize": "",
    "report": "",
    "train": "leanly.training",
    "training": "",
}

__all__ = [
    "Artifact",
    "Budget",
    "Graph",
    "LeanlyError",
    "LeanlyWarning",
    "Metric",
    "Recipe",
    "Target",
    "Task",
    "bundle",
    "capture",
    "compare",
    "distill",
    "load",
    "lower",
    "measure",
    "optimize",
    "prune",
    "quantize",
    "report",
    "train",
    "training",
]

if TYPE_CHECKING:
    from leanly import bundle, distill, prune, quantize, report, training
    from leanly.artifact import Artifact
    from leanly.budget import Budget
    from leanly.bundle import load
    from leanly.errors import LeanlyError, LeanlyWarning
    from leanly.graph import Graph, capture
    from leanly.lowering import lower
    from leanly.measurement import compare, measure
    from leanly.metrics import Metric
    from leanly.pipeline import optimize
    from leanly.recipe import Recipe
    from leanly.target import Target
    from leanly.task import Task
    from leanly.training import train


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'leanly' has no attribute {name!r}")
    try:
        module = importlib.import_module(home or f"leanly.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "leanly":
            raise
        raise missing_extra(missing, f"leanly.{name}") from error
    value = getattr(module, name) if home else module
    globals()[name] = value
    return value


def missing_extra(package: str, where: str) -> LeanlyError:
    """Return the error that says which line installs a package that is not there."""
    from leanly.errors import MissingExtra

    extra = {
        "cryptography": "signing",
        "mlxtend": "demo",
        "onnx": "cpu",
        "onnx_ir": "cpu",
        "onnxscript": "cpu",
        "scipy": "cpu",
        "torch": "cpu",
        "transformers": "bert",
    }.get(package)
    line = f'pip install "leanly[{extra}]"' if extra else f"pip install {package}"
    return MissingExtra(f"{package} is not installed", where=where, remedy=line)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""One call of `torch.export`: flat tensors in, flat tensors out, and its refusals told in the user's terms."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from leanly.errors import CaptureError
from leanly.graph.example import Example, call
from leanly.graph.explaining import first_line, line_of
from leanly.structure import Structure, flatten


class Seen:
    """Where a run leaves the structure of its outputs; the exporter restores lists and dicts, not this."""

    structure: Structure = None


class Flat(nn.Module):
    """The model behind flat tensors, so that the exporter sees no structure of the user's own."""

    def __init__(self, model: nn.Module, arguments: Structure) -> None:
        super().__init__()
        self.model = model
        self.arguments = arguments
        self.seen = Seen()

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Run on flat tensors, note the structure that came back, give its flat tensors."""
        args, kwargs = call(self.arguments, leaves)
        structure, outputs = flatten(self.model(*args, **kwargs))
        self.seen.structure = structure
        return tuple(outputs)


_NO_TENSOR = "is neither a tensor nor"


@dataclass(frozen=True)
class Exported:
    """What the exporter gave: the module, still with its guards, and the structure of its outputs."""

    module: fx.GraphModule
    returns: Structure
    program: ExportedProgram


def run_once(flat: nn.Module, example: Example) -> tuple[Tensor, ...]:
    """Run the model on the example as it is, in evaluation.

    Raises:
        CaptureError: the example does not fit the model; names the user's line and the shapes.
    """
    try:
        with torch.no_grad():
            return flat(*example.tensors)
    except CaptureError:
        raise
    except Exception as error:
        if isinstance(error, TypeError) and _NO_TENSOR in str(error):
            raise _indescribable(error) from error
        shapes = ", ".join(
            f"{spec.name} {spec.dtype} {list(tensor.shape)}"
            for spec, tensor in zip(example.inputs, example.tensors, strict=True)
        )
        remedy = "give an example that the model accepts"
        if any(not spec.dtype.startswith(("float", "bfloat")) for spec in example.inputs) and "type" in str(error):
            remedy += "; integer inputs where it expects float need .float()"
        raise CaptureError(
            f"the model does not run on the example ({first_line(error)}); the inputs are {shapes}",
            where=line_of(error) or "example",
            remedy=remedy,
        ) from error


def export(flat: Flat, example: Example) -> Exported:
    """Export in the mode the model is in, with the dimensions that vary kept symbolic.

    Raises:
        CaptureError: what the exporter refuses, with the user's line and the remedy.
    """
    dims = tuple(
        {position: Dim.DYNAMIC for position, size in enumerate(spec.shape) if isinstance(size, str)} or None
        for spec in example.inputs
    )
    try:
        with _quiet(), torch.enable_grad():
            program = torch.export.export(flat, example.tensors, dynamic_shapes=(dims,), strict=False)
            module: Any = program.module()
    except Exception as error:
        raise refusal(error, flat, example) from error
    return Exported(module, flat.seen.structure, program)


def refusal(error: Exception, flat: Flat, example: Example) -> CaptureError:
    """Tell what the exporter refused, where in the user's file, and what to do."""
    text = str(error)
    where = line_of(error)
    if "specialized it to be a constant" in text or "Constraints violated" in text:
        where = _line_that_fixes(flat, example) or where
        names = ", ".join(
            f"dimension {position} of {spec.name} ({size})"
            for spec in example.inputs
            for position, size in enumerate(spec.shape)
            if isinstance(size, str)
        )
        remedy = "take sizes from x.shape, or write -1 for a number; an input without a batch goes into static="
        if example.shift and any(isinstance(module, nn.RNNBase) for module in flat.modules()):
            where = where or "a recurrent layer"
            remedy = "a recurrent layer is captured for one length: leave the length out of dynamic= and pad to it"
        detail = next((line.strip(" -") for line in text.splitlines() if "specialized" in line), first_line(error))
        return CaptureError(
            f"the model fixes a dimension that must vary, among {names} ({detail.split('. ')[0]})",
            where=where or "the model's forward",
            remedy=remedy,
        )
    if "data-dependent" in text or type(error).__name__ == "GuardOnDataDependentSymNode":
        return CaptureError(
            "the model branches on, or reads as a Python number, the value of a tensor",
            where=where,
            remedy="choose with torch.where instead of `if`, or move the decision out of forward",
        )
    if isinstance(error, TypeError) and _NO_TENSOR in text:
        return _indescribable(error)
    return CaptureError(
        f"torch.export refuses the model ({first_line(error)})",
        where=where,
        remedy="rewrite that line with torch operators on tensors, or move it out of forward",
    )


def _indescribable(error: TypeError) -> CaptureError:
    return CaptureError(
        f"an output of the model can't be described: {error}",
        where=line_of(error) or "the model's output",
        remedy="return tensors in a tuple, list or dict (in transformers: config.use_cache = False)",
    )


def _line_that_fixes(flat: Flat, example: Example) -> str:
    """Find the line that breaks at other sizes by running the model at them."""
    for rows, shift in ((example.tensors[0].shape[0] + 1, 0), (example.tensors[0].shape[0], -1)):
        try:
            with torch.no_grad():
                flat(*example.sized(rows, shift))
        except Exception as error:
            return line_of(error)
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own reports away: what matters of them becomes one CaptureError."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

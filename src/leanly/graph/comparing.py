"""Does the graph compute what the module computes? At several batch sizes, in evaluation and in training."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from leanly.errors import CaptureError
from leanly.graph import modes, tensors
from leanly.graph.example import Example
from leanly.graph.explaining import first_line, line_of
from leanly.graph.exporting import Flat
from leanly.graph.graph import Graph

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def compare(graph: Graph, flat: Flat, example: Example, *, training: bool) -> str:
    """Return how the graph differs from the module in one mode; empty where it does not.

    Outputs are compared, and in training the buffers too (running statistics). `flat` is in that mode already; neither
    is changed.
    """
    rows = example.rows
    settings = dict.fromkeys([(rows, 0), (3, example.shift), (1, 0)])
    for size, shift in settings:
        leaves = example.sized(size, shift)
        module = _copied(flat)
        twin = graph.clone().train(training)
        try:
            expected = _seeded(module, leaves)
        except Exception as error:
            if size == rows:
                raise
            if training and size == 1:
                continue  # batch norm refuses to train on one value
            return (
                f"the module itself fails at batch size {size} ({first_line(error)}, {line_of(error)}), "
                "so its batch size is fixed somewhere"
            )
        try:
            found = _seeded(twin.module, leaves)
        except Exception as error:
            return f"the graph fails at batch size {size} ({first_line(error)})"
        names = [spec.name for spec in graph.outputs]
        if len(found) != len(expected):
            return f"the module gives {len(expected)} outputs, the graph {len(found)}"
        for name, one, other in zip(names, found, expected, strict=True):
            told = difference(one, other)
            if told:
                return f"output {name} at batch size {size} {told}"
        if training:
            told = _buffers(twin.module, module.model)
            if told:
                return f"{told} after one training step at batch size {size}"
    return ""


def difference(found: Tensor, expected: Tensor) -> str:
    """Say how far two tensors are apart; empty where they agree to the precision of their dtype."""
    if found.shape != expected.shape:
        return f"has shape {list(found.shape)} instead of {list(expected.shape)}"
    if found.dtype != expected.dtype:
        return f"has dtype {found.dtype} instead of {expected.dtype}"
    if not expected.numel():
        return ""
    if not expected.is_floating_point():
        wrong = int((found != expected).sum())
        return f"differs in {wrong} of {expected.numel()} values" if wrong else ""
    if not torch.equal(found.isnan(), expected.isnan()):
        return "is NaN in other places"
    if not torch.equal(found.isinf(), expected.isinf()):
        return "is infinite in other places"
    one, other = found.double().nan_to_num(0, 0, 0), expected.double().nan_to_num(0, 0, 0)
    far, scale = float((one - other).abs().max()), float(other.abs().max())
    tolerance = _TOLERANCE.get(expected.dtype, 1e-4)
    return f"is off by {far:.3g} (largest value {scale:.3g})" if far > tolerance * max(scale, 1e-2) else ""


def fits_training(graph: Graph) -> bool:
    """Say whether training can be compared: it draws no random numbers."""
    return not modes.has_dropout(graph.module)


def mismatch(told: str, mode: str) -> CaptureError:
    """Make the error for a graph that does not compute what the module does."""
    return CaptureError(
        f"the captured graph does not compute what the module computes in {mode}: {told}",
        where="the model's forward",
        remedy="look for random numbers, state kept between calls, or sizes turned into Python numbers",
    )


def _copied(flat: Flat) -> Flat:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch says of copying its own modules
        return copy.deepcopy(flat)


def _seeded(module: nn.Module, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return module(*(leaf.clone() for leaf in leaves))


def _buffers(found: nn.Module, expected: nn.Module) -> str:
    mine = tensors.every(found)
    for name, buffer in expected.named_buffers(remove_duplicate=False):
        if name.endswith("num_batches_tracked"):
            continue
        told = difference(mine[name], buffer)
        if told:
            return f"buffer {name} {told}"
    return ""

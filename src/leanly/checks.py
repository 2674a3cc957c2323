"""What is checked of a task before any work: its weights, its example, and every row of its splits."""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leanly.arguments import Arguments
from leanly.data import Split
from leanly.errors import DataError, LeanlyWarning
from leanly.metrics import CLASSIFICATION, METRICS, Metric, first_output, predicted_classes
from leanly.structure import build, flatten

SAMPLE = 32
"""Rows of validation that the metric is tried on."""


def is_exported(model: Any) -> bool:
    """Say whether the model is a torch.export.ExportedProgram."""
    return hasattr(model, "graph_signature") and callable(getattr(model, "module", None))


def named_tensors(model: Any) -> list[tuple[str, torch.Tensor, bool]]:
    """List names and tensors of the model, and whether each is a parameter."""
    parameters, buffers = model.named_parameters(), model.named_buffers()
    return [
        *((name, tensor, True) for name, tensor in parameters),
        *((name, tensor, False) for name, tensor in buffers),
    ]


def check_weights(model: Any) -> None:
    """Raise a DataError that names the first weight that is NaN, infinite or not of float32.

    Infinity is let through in buffers: attention masks are kept there.
    """
    for name, tensor, is_parameter in named_tensors(model):
        if not tensor.is_floating_point():
            continue
        if is_parameter and tensor.dtype != torch.float32:
            raise DataError(
                f"parameter {name!r} is {str(tensor.dtype).removeprefix('torch.')}; the reference that everything is "
                "compared with is the model in float32",
                where=f"parameter {name!r}",
                remedy="give model.float(), and an example and data of float32",
            )
        check_numbers(name, tensor.detach(), is_parameter=is_parameter)


def check_numbers(name: str, tensor: torch.Tensor, *, is_parameter: bool) -> None:
    """Raise a DataError where a parameter holds NaN or infinity, a buffer NaN."""
    wrong = ~tensor.isfinite() if is_parameter else tensor.isnan()
    if wrong.any():
        place = first_place(wrong)
        kind = "parameter" if is_parameter else "buffer"
        raise DataError(
            f"{kind} {name!r} is {float(tensor[tuple(place)])} at {place} "
            f"({int(wrong.sum())} of {tensor.numel()} values are not finite)",
            where=f"{kind} {name!r}",
            remedy="load weights from before the training diverged",
        )


def check_device(model: Any, arguments: Arguments) -> None:
    """Raise a DataError when the model's tensors are not on the device of the example's."""
    devices = {tensor.device for tensor in arguments.tensors}
    for name, tensor, _ in named_tensors(model):
        other = [place for place in devices if place != tensor.device]
        if other:
            raise DataError(
                f"the model's {name!r} is on device {str(tensor.device)!r}, the example on {str(other[0])!r}",
                where="Task.example",
                remedy=f'move both to one device: model.to("{other[0]}")',
            )


def run_example(model: Any, arguments: Arguments) -> Any:
    """Run the model once on the example, in eval mode and without gradients; its modes are put back.

    Raises:
        DataError: it fails; the user's line is named where the traceback holds one.
    """
    return _run(model, *arguments.call(), what="the example does not fit the model", shown=arguments)


def check_repeats(model: Any, arguments: Arguments, outputs: Any) -> None:
    """Raise a DataError when the example, run again, gives something else than the outputs of before."""
    before, after = (flatten(found)[1] for found in (outputs, run_example(model, arguments)))
    for one, other in zip(map(torch.as_tensor, before), map(torch.as_tensor, after), strict=True):
        if not torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-6, equal_nan=True):
            raise DataError(
                "the model gives other outputs when it is run on the example again, so nothing can be compared with it",
                where="the model's forward, in eval mode",
                remedy="take random numbers (and state kept between calls) out of it: dropout that is always on, "
                "torch.rand, noise",
            )


def _run(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, what: str, shown: Arguments) -> Any:
    module = model.module() if is_exported(model) else model
    # an exported module refuses eval(); it was exported in the mode it runs in
    modes = [] if is_exported(model) else [(part, part.training) for part in module.modules()]
    # copies, so that a forward that works in place changes neither example nor data
    structure, tensors = flatten((args, kwargs))
    args, kwargs = build(structure, [tensor.clone() for tensor in tensors])
    try:
        for part, _ in modes:
            part.training = False
        with torch.no_grad():
            return module(*args, **kwargs)
    except Exception as error:
        told = ", ".join(
            f"{name!r} {tensor.dtype} {tuple(tensor.shape)}".replace("torch.", "")
            for name, tensor in zip(shown.names, tensors, strict=True)
        )
        remedy = "give an example that model(*example) runs on (a dict is passed by keyword)"
        if any(not tensor.is_floating_point() for tensor in tensors):
            remedy += "; if an input is an integer image, convert it: x.float() / 255"
        raise DataError(
            f"{what} ({told}): {type(error).__name__}: {_short(error)}", where=user_line(error), remedy=remedy
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode


def user_line(error: BaseException) -> str:
    """Return the last line of the user's own code in a traceback, as "file.py:12: code"."""
    own = [str(Path(torch.__file__).parent), str(Path(__file__).parent)]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith("<") and not any(frame.filename.startswith(root) for root in own):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return "Task.example"


def class_count(outputs: Any, metric: Metric, loss: Any, split: Split | None) -> int | None:
    """Return how many classes the labels may name, or None where targets are no class numbers."""
    by_loss = metric.per_example is None and metric.name not in CLASSIFICATION and loss == "cross_entropy"
    if not (by_loss or metric.name in CLASSIFICATION):
        return None
    logits = torch.as_tensor(first_output(outputs))
    if by_loss:
        # the default loss says nothing about a regression with a metric of its own: believe the targets
        if logits.ndim != 2 or logits.shape[1] < 2 or split is None:
            return None
        _, targets = next(split.flat_batches(1, 1))
        return int(logits.shape[1]) if targets.ndim == 1 and not targets.is_floating_point() else None
    predicted_classes(logits.float().cpu().numpy())  # says what shape it wants
    return 2 if logits.ndim == 1 or logits.shape[1] == 1 else int(logits.shape[1])


def check_split(split: Split, arguments: Arguments, dynamic: dict[str, Any], classes: int | None) -> None:
    """Read all rows once and raise a DataError at the first that can't be used."""
    where = f"split {split.name!r}"
    seen: set[int] = set()

    def visit(start: int, inputs: list[tuple[str, torch.Tensor]], targets: torch.Tensor) -> None:
        for (name, tensor), (_, example) in zip(inputs, arguments.batched, strict=True):
            _check_like(tensor, example, name, dynamic.get(name) or {}, where)
            _check_finite(tensor, start, f"input {name!r}", where)
        _check_finite(targets, start, "the targets", where)
        if classes is not None and split.labelled:
            seen.update(_check_labels(targets, start, classes, where))

    split.scan(visit)
    if classes is not None and len(seen) == 1:
        raise DataError(
            f"all {len(split)} rows have one label, {seen.pop()}",
            where=where,
            remedy="give rows of every class, shuffled before they are split",
        )


def check_order(split: Split) -> None:
    """Raise a DataError when a second reading differs; for train, where that may be augmentation, warn."""
    if split.same_again():
        return
    if split.name == "train" and split.counted:
        warnings.warn(
            "Two readings of split 'train' differ, as with random augmentation: training and calibration see "
            "augmented rows. What to do: nothing, or give the rows without augmentation.",
            LeanlyWarning,
            stacklevel=3,
        )
        return
    raise DataError(
        "two readings differ, so predictions can't pair up with targets",
        where=f"split {split.name!r}",
        remedy="give rows in one fixed order and without random augmentation",
    )


def check_sample(model: Any, split: Split, metric: Metric) -> None:
    """Try model and metric on the first rows: a wrong metric shows here, and a model that always says the same."""
    batch = next(split.batches(SAMPLE, SAMPLE))
    what = f"the first rows of split {split.name!r} do not fit the model"
    output = _run(model, *batch.arguments, what=what, shown=split.arguments)
    predictions, targets = to_numpy(output), batch.targets.numpy()
    try:
        metric.score(predictions, targets)
    except DataError as error:
        # few rows may lack a class or be all alike: a metric of the user's own may fail on those, right as it is
        alike = len(np.unique(targets)) == 1
        own = METRICS.get(metric.name) is not metric
        structural = "not a number" in error.what or isinstance(
            error.__cause__, TypeError | LookupError | AttributeError
        )
        if len(split) == len(targets) or not (alike or own) or structural:
            raise
    if METRICS.get(metric.name) is not metric and not _moves(metric, predictions, targets):
        warnings.warn(
            f"The metric {metric.name} is the same for the first {len(targets)} rows of split {split.name!r}, for them "
            "in another order, turned around and set to zero: no loss would show in it. What to do: look at what it "
            "reads of the predictions.",
            LeanlyWarning,
            stacklevel=3,
        )
    if metric.name in CLASSIFICATION and len(targets) >= SAMPLE // 2:
        classes = predicted_classes(predictions)
        if len(np.unique(classes)) == 1 and len(np.unique(targets)) > 1:
            warnings.warn(
                f"The model says class {classes[0]} for each of the first {len(classes)} rows of split {split.name!r}, "
                "whose labels differ. What to do: check that it is trained, gets inputs scaled as in training, and "
                "returns logits (for one output, negative for class 0).",
                LeanlyWarning,
                stacklevel=3,
            )


def _moves(metric: Metric, predictions: Any, targets: np.ndarray) -> bool:
    """Say whether a metric tells predictions from others."""
    structure, leaves = flatten(predictions)
    if len(targets) < 2 or not all(leaf.dtype.kind == "f" and leaf.any() for leaf in leaves):
        return True
    found = set()
    for change in (lambda leaf: leaf, lambda leaf: np.roll(leaf, 1, 0), np.negative, np.zeros_like):
        try:
            found.add(metric.score(build(structure, [change(leaf) for leaf in leaves]), targets))
        except DataError:
            return True
    return len(found) > 1


def check_shared(splits: list[Split]) -> None:
    """Warn about rows of test (or validation) that other splits hold too."""
    by_name = {split.name: split for split in splits}
    for first, second in (("train", "test"), ("validation", "test"), ("train", "validation")):
        if first in by_name and second in by_name:
            held = np.isin(by_name[second].row_digests(), by_name[first].row_digests())
            if held.any():
                example = int(np.flatnonzero(held)[0])
                warnings.warn(
                    f"{int(held.sum())} of {len(held)} rows of split {second!r} are also in {first!r}, the first is "
                    f"row {example}: its figures look better than they are. What to do: take them out of {first!r}.",
                    LeanlyWarning,
                    stacklevel=3,
                )


def to_numpy(output: Any) -> Any:
    """Return a model's output with numpy arrays in place of tensors."""
    structure, leaves = flatten(output)
    tensors = [torch.as_tensor(leaf).detach().cpu() for leaf in leaves]
    return build(structure, [(t.float() if t.dtype == torch.bfloat16 else t).numpy() for t in tensors])


def _check_like(tensor: torch.Tensor, example: torch.Tensor, name: str, dynamic: dict[int, str], where: str) -> None:
    if tensor.dtype != example.dtype:
        wanted = str(example.dtype).removeprefix("torch.")
        remedy = f"convert it to the dtype of the example: x.to(torch.{wanted})"
        if example.is_floating_point() and not tensor.is_floating_point():
            remedy = "convert it as in training, for example x.float() / 255 for images"
        raise DataError(
            f"input {name!r} is {str(tensor.dtype).removeprefix('torch.')}, the example is {wanted}",
            where=where,
            remedy=remedy,
        )
    fixed = [index for index in range(1, example.ndim) if index not in dynamic]
    if tensor.ndim != example.ndim or any(tensor.shape[index] != example.shape[index] for index in fixed):
        raise DataError(
            f"a row of input {name!r} has shape {tuple(tensor.shape[1:])}, of the example {tuple(example.shape[1:])}",
            where=where,
            remedy=f'give rows of one shape, or say which dimensions vary: dynamic={{"{name}": {{1: "length"}}}}',
        )


def _check_finite(tensor: torch.Tensor, start: int, what: str, where: str) -> None:
    if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
        return
    row, *place = first_place(~tensor.isfinite())
    value = float(tensor[(row, *place)])
    told = f"{what} hold {value}" if what.startswith("the") else f"{what} holds {value}"
    raise DataError(
        f"{told} in row {start + row}" + (f" at {place}" if place else ""),
        where=f"{where}, row {start + row}",
        remedy="take the row out, or put a number in its place",
    )


def _check_labels(targets: torch.Tensor, start: int, classes: int, where: str) -> set[int]:
    labels = targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if labels.ndim != 1:
        raise DataError(
            f"a target has shape {tuple(targets.shape[1:])}, not one label",
            where=where,
            remedy="give class numbers; for one-hot targets their argmax(axis=1)",
        )
    # a label of 1.0 is class 1, as binary losses want it; 0.5 is none
    if labels.is_floating_point() and bool((wrong := labels != labels.round()).any()):
        row = first_place(wrong)[0]
        raise DataError(
            f"the label of row {start + row} is {float(labels[row])}, not a whole number",
            where=f"{where}, row {start + row}",
            remedy='give class numbers 0, 1, ...; for a regression choose metric="mse" and loss="mse"',
        )
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        row = first_place(wrong)[0]
        label = int(labels[row])
        remedy = f"number the classes 0 to {classes - 1}, as the model's {classes} outputs do"
        if label == -100:
            remedy = "take these rows out: cross_entropy ignores -100 silently, and no metric can count it"
        raise DataError(
            f"the label of row {start + row} is {label}, outside 0 to {classes - 1}",
            where=f"{where}, row {start + row}",
            remedy=remedy,
        )
    return {int(label) for label in labels.unique()}


def first_place(wrong: torch.Tensor) -> list[int]:
    """Index of the first true entry, one number a dimension."""
    return [int(index) for index in np.unravel_index(int(wrong.reshape(-1).int().argmax()), tuple(wrong.shape))]


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."

"""The losses known by name: `(outputs, targets) -> scalar tensor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leanly.errors import DataError
from leanly.metrics import check_two_arguments, first_output
from leanly.suggest import suggestion

SUM_OFF = 0.02
"""How far probabilities of a row may add up to other than 1: those in bfloat16 do."""


def resolve_loss(loss: str | Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return the loss of a name, or a callable `(outputs, targets) -> scalar tensor` as it is.

    Raises:
        DataError: an unknown name, or something that can't be called with two arguments.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise DataError(f"there is no loss named {loss!r}", where="Task.loss", remedy=suggestion(loss, LOSSES))
        return LOSSES[loss]
    remedy = f"give a name ({', '.join(sorted(LOSSES))}) or a callable (outputs, targets) -> scalar tensor"
    if not callable(loss):
        raise DataError(f"loss is {loss!r}, which isn't callable", where="Task.loss", remedy=remedy)
    check_two_arguments(loss, "loss", "Task.loss", remedy)
    return loss


def cross_entropy(outputs: Any, targets: Any) -> Any:
    """Cross-entropy of logits (rows, classes) against class numbers of any dtype or class probabilities."""
    from torch.nn import functional

    logits = first_output(outputs)
    return functional.cross_entropy(logits, _class_numbers(logits, targets))


def binary_cross_entropy(outputs: Any, targets: Any) -> Any:
    """Binary cross-entropy of logits against 0 and 1."""
    from torch.nn import functional

    logits = first_output(outputs)
    return functional.binary_cross_entropy_with_logits(logits, _like(logits, targets))


def mse(outputs: Any, targets: Any) -> Any:
    """Mean squared error."""
    from torch.nn import functional

    values = first_output(outputs)
    return functional.mse_loss(values, _like(values, targets))


def l1(outputs: Any, targets: Any) -> Any:
    """Mean absolute error."""
    from torch.nn import functional

    values = first_output(outputs)
    return functional.l1_loss(values, _like(values, targets))


def kl(outputs: Any, targets: Any) -> Any:
    """Kullback-Leibler divergence of class probabilities (the targets) from the softmax of logits."""
    from torch.nn import functional

    logits = first_output(outputs)
    return functional.kl_div(logits.log_softmax(dim=-1), targets.to(logits.dtype), reduction="batchmean")


def _class_numbers(logits: Any, targets: Any) -> Any:
    """Targets as int64 without a last dimension of 1, as torch wants them; probabilities stay as they are."""
    told = ""
    if logits.ndim > 1 and logits.shape[1] == 1:
        told = "the model gives one number a row, whose cross-entropy is always 0"
    elif targets.is_floating_point() and targets.shape == logits.shape:
        if _are_probabilities(targets):
            return targets
        told = "targets are numbers, neither class numbers nor probabilities of classes"
    elif targets.is_floating_point() and bool((targets != targets.round()).any()):
        told = "targets are no whole numbers, as those of classes are"
    if told:
        raise DataError(
            told,
            where="Task.loss",
            remedy='give the loss that the model was trained with, as loss="mse", "binary_cross_entropy" or a function',
        )
    return (targets.squeeze(1) if targets.ndim == logits.ndim and targets.shape[1] == 1 else targets).long()


def _are_probabilities(targets: Any) -> bool:
    return bool((targets >= 0).all()) and bool((targets.sum(1) - 1).abs().max() < SUM_OFF)


def _like(values: Any, targets: Any) -> Any:
    """Targets in the dtype and shape of the values: (N,) against (N, 1) would broadcast to (N, N)."""
    targets = targets.to(values.dtype)
    if targets.shape != values.shape and targets.numel() == values.numel() == len(values):
        targets = targets.reshape(values.shape)
    if targets.shape != values.shape:
        raise DataError(
            f"outputs have shape {tuple(values.shape)} and targets {tuple(targets.shape)}",
            where="Task.loss",
            remedy="give targets of the shape that the model returns, or your own loss",
        )
    return targets


LOSSES = {function.__name__: function for function in (cross_entropy, binary_cross_entropy, mse, l1, kl)}

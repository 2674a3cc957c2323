"""Schedules: how much each of several steps takes, so that training can follow each of them."""

from __future__ import annotations

from leanly.errors import SettingError
from leanly.scalars import check_whole, is_number


def gradual(sparsity: float, steps: int, start: float = 0.0) -> tuple[float, ...]:
    """Return the sparsities of steps that take much at first and little at the end.

    Zhu and Gupta 2017, "To prune, or not to prune: exploring the efficacy of pruning for model compression": the share
    left falls with the third power of the steps to go. One `Sparse` and some epochs with
    `Settings(keep_zeros=True, regrow=True)` for each.

    Args:
        sparsity: of the last step, between 0 and 1.
        steps: how many, from 1.
        start: sparsity before the first, from 0 to below `sparsity`.

    Raises:
        SettingError: a setting out of its range.
    """
    _check("sparsity", sparsity)
    check_whole(steps, 1, name="steps", where="gradual")
    if not (is_number(start) and 0 <= start < sparsity):
        raise SettingError(f"start={start!r}", where="gradual", remedy="use a share from 0 to below sparsity")
    return tuple(sparsity + (start - sparsity) * (1 - step / steps) ** 3 for step in range(1, steps + 1))


def iterative(share: float, steps: int) -> tuple[float, ...]:
    """Return what each of several cuts takes of what the one before it left, so that together they take the share.

    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference". One
    `Channels(macs=...)` (or `fraction`, or `latency`) and some epochs for each; the scores are taken anew every time.

    Args:
        share: of all steps together, between 0 and 1.
        steps: how many, from 1.

    Raises:
        SettingError: a setting out of its range.
    """
    _check("share", share)
    check_whole(steps, 1, name="steps", where="iterative")
    return (1 - (1 - share) ** (1 / steps),) * steps


def _check(name: str, value: float) -> None:
    if not (is_number(value) and 0 < value < 1):
        raise SettingError(f"{name}={value!r}", where="schedule", remedy="use a share between 0 and 1, as 0.5")

"""Input ranges: whether the rows that calibrate are scaled as those that accuracy is measured on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

import torch
from torch import Tensor

from leanly.errors import LeanlyWarning
from leanly.seeding import fixed_random
from leanly.structure import TensorSpec

if TYPE_CHECKING:
    from leanly.data import Split

FAR = 90.0
"""Times by which the ranges of calibration and validation rows may differ: a forgotten division by 255 is more."""
COMPARED = 32
"""Rows of validation, spread over all of it, that calibration rows are compared with."""

_warned: WeakSet[Split] = WeakSet()
"""Calibration rows that were warned of: the other passes of a recipe read the same."""


class InputRanges:
    """The smallest and the largest value of each input of floats, over all rows that were seen.

    Args:
        inputs: names the flat tensors of a batch.
    """

    def __init__(self, inputs: Sequence[TensorSpec]) -> None:
        self.inputs = inputs
        self.found: dict[str, tuple[float, float]] = {}

    def see(self, tensors: Iterable[Tensor]) -> None:
        """Add the values of a batch."""
        for spec, tensor in zip(self.inputs, tensors, strict=True):
            if tensor.is_floating_point() and tensor.numel():
                low, high = (float(end) for end in torch.aminmax(tensor))
                before = self.found.get(spec.name, (low, high))
                self.found[spec.name] = min(low, before[0]), max(high, before[1])


def warn_of_scale(calibration: InputRanges, split: Split, other: Split | None) -> None:
    """Warn, once for a split, where its rows are zero throughout or scaled otherwise than those of another split.

    Args:
        calibration: of the rows that were read.
        split: which they are of.
        other: validation; None where there is none.
    """
    if split in _warned:
        return
    found = [
        f"Input {name} is zero throughout in the calibration rows (split {split.name!r}): ranges seen there fit "
        "nothing else. What to do: look at how the rows are prepared."
        for name, ends in calibration.found.items()
        if ends == (0.0, 0.0)
    ]
    if other is not None and other is not split:
        expected = InputRanges(calibration.inputs)
        for tensors in _spread(other):
            expected.see(tensors)
        for name, ends in calibration.found.items():
            ours, theirs = (max(map(abs, pair)) for pair in (ends, expected.found.get(name, (0.0, 0.0))))
            if max(ours, theirs) >= FAR * min(ours, theirs) > 0:
                found.append(
                    f"Input {name} goes {_told(ends)} in the calibration rows (split {split.name!r}) and "
                    f"{_told(expected.found[name])} in split {other.name!r}: one of them seems to be scaled "
                    "otherwise. What to do: prepare both alike."
                )
    for text in found:
        _warned.add(split)
        warnings.warn(text, LeanlyWarning, stacklevel=4)


def _spread(split: Split) -> Iterable[list[Tensor]]:
    with fixed_random():
        if split.counted:
            yield split.take(torch.linspace(0, len(split) - 1, min(COMPARED, len(split))).long())[0]
        else:
            yield from (inputs for inputs, _ in split.flat_batches(COMPARED, COMPARED))


def _told(ends: tuple[float, float]) -> str:
    return f"from {ends[0]:.3g} to {ends[1]:.3g}"

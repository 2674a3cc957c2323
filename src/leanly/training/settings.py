"""Settings: how a network is trained, as data."""

from __future__ import annotations

from dataclasses import dataclass

from leanly.budget import read_bytes
from leanly.errors import SettingError
from leanly.scalars import check_flag, is_number, is_whole
from leanly.suggest import suggestion
from leanly.training.augmentation import AUGMENTATIONS
from leanly.training.optimizers import OPTIMIZERS
from leanly.training.schedules import SCHEDULES

PRECISIONS = ("auto", "bfloat16", "float32")


@dataclass(frozen=True)
class Settings:
    """How a network is trained; for how long is said where it is trained.

    Args:
        batch_size: rows in a step.
        optimizer: "adamw", or "sgd" with Nesterov's momentum of 0.9.
        learning_rate: the highest of the schedule; None takes 0.1 for sgd, for adamw 0.001 (0.0001 with attention).
        weight_decay: of weights, never of norms and biases; None takes 0.0005 for sgd, 0.01 for adamw.
        schedule: "cosine", "linear" or "constant", after the warm-up.
        warmup: share of all steps in which the learning rate rises.
        augment: what is done at random to images of `(rows, channels, height, width)`: "crop", "flip".
        patience: stop after so many epochs without a better metric on validation; 0 never stops early.
        clip: largest norm of all gradients together; 0 sets no limit.
        keep_zeros: weights (of two dimensions and more) that are zero at the start stay so.
        regrow: with `keep_zeros`, as many of a weight are zero all along, but which ones is found anew every 16 steps
            (Lin et al. 2020): more accurate where most are zero; it keeps no N:M pattern.
        coded_size: bytes that quantized weights take at the end, entropy-coded as in a bundle: a number or "3kB". Few
            and frequent values are learned along with the task, weights that can't follow in time are rounded to them,
            and only states of that size come back. It wants `quantize.Static`, better `quantize.LearnSteps` too, before
            the training. None leaves their size alone.
        dropout: whether the network's dropout is used.
        keep_statistics: batch norm computes with its stored statistics, and they stay as they are: for a network that
            was taught so (with those of a batch it starts worse than it was given), and for very small batches.
        precision: "auto" (bfloat16 where the machine multiplies in it), "bfloat16" or "float32".
        seed: of the order of rows, augmentation and dropout.

    Raises:
        SettingError: a value that is unknown or out of its range.
    """

    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.05
    augment: tuple[str, ...] = ()
    patience: int = 0
    clip: float = 0.0
    keep_zeros: bool = False
    regrow: bool = False
    coded_size: float | str | None = None
    dropout: bool = True
    keep_statistics: bool = False
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", tuple(self.augment))
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            _check_known(name, getattr(self, name), known)
        for operation in self.augment:
            _check_known("augment", operation, AUGMENTATIONS)
        for name, low in (("batch_size", 1), ("patience", 0), ("seed", 0)):
            value = getattr(self, name)
            if not is_whole(value, low):
                raise _out_of_range(name, value, f"an int, {low} or more")
        for name in ("keep_zeros", "regrow", "dropout", "keep_statistics"):
            check_flag(getattr(self, name), name=name, where=f"Settings.{name}")
        for name in ("learning_rate", "weight_decay", "clip"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and (value > 0 or (value == 0 and name != "learning_rate"))):
                raise _out_of_range(name, value, "a positive number")
        if self.regrow and not self.keep_zeros:
            raise SettingError(
                "zeros can't move where none are kept", where="Settings.regrow", remedy="add keep_zeros=True"
            )
        if self.coded_size is not None:
            object.__setattr__(self, "coded_size", _read_size(self.coded_size))
        if not (is_number(self.warmup) and 0 <= self.warmup < 1):
            raise _out_of_range("warmup", self.warmup, "a share of the steps, from 0 to below 1")


def _check_known(name: str, value: object, known: object) -> None:
    names = tuple(known)  # type: ignore[arg-type]
    if value not in names:
        raise SettingError(f"{name} {value!r} is unknown", where=f"Settings.{name}", remedy=suggestion(value, names))


def _read_size(value: float | str) -> int:
    try:
        return read_bytes(value)
    except SettingError as error:
        raise _out_of_range("coded_size", value, 'bytes, or a size such as "3kB"') from error


def _out_of_range(name: str, value: object, wanted: str) -> SettingError:
    return SettingError(f"{name} is {value!r}", where=f"Settings.{name}", remedy=f"give {wanted}")

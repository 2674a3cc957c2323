"""One step: a batch goes through the network, its loss comes back, the optimizer moves the weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from leanly.errors import DataError, LeanlyError, LeanlyWarning
from leanly.graph import Graph
from leanly.graph.explaining import first_line
from leanly.graph.watching import Watched
from leanly.seeding import reseed, seed_of
from leanly.target import Target
from leanly.training.augmentation import augmented, check_augment, image_inputs
from leanly.training.coded_size import SLACK, CodedSize
from leanly.training.optimizers import make_optimizer
from leanly.training.precision import chosen_dtype, placed, run, takes_channels_last
from leanly.training.rows import TrainBatch
from leanly.training.settings import Settings
from leanly.training.zeros import Zeros

Objective = Callable[[tuple[Tensor, ...], TrainBatch], Tensor]
"""What is minimized: `(flat outputs, batch) -> scalar tensor`, everything on the graph's device; the hidden values that
were asked for follow the outputs."""


LOWER = "a lower learning_rate, clip=1.0 or a longer warmup; look at the rows of that batch"


class Diverged(Exception):
    """Numbers are none any more: `told` says which, `place` in which batch, `remedy` what to do."""

    def __init__(self, told: str, place: str, remedy: str = LOWER) -> None:
        super().__init__(f"{told} in {place}")
        self.told, self.place, self.remedy = told, place, remedy


class Stepper:
    """A graph with its optimizer.

    Args:
        graph: is trained in place.
        objective: what is minimized.
        settings: how.
        target: what the machine is good at; by default this one.
        hidden: names of nodes whose values the objective is given behind the outputs.

    Raises:
        SettingError: no parameter can be trained, or augmentation without images.
    """

    def __init__(
        self,
        graph: Graph,
        objective: Objective,
        settings: Settings,
        target: Target | None = None,
        hidden: tuple[str, ...] = (),
    ) -> None:
        check_augment(graph, settings.augment)
        self.graph, self._objective, self._settings = graph, objective, settings
        self._runs = Watched(graph, hidden) if hidden else graph
        self.optimizer = make_optimizer(graph, settings)
        self._moves = Zeros(graph, self.optimizer, settings.regrow) if settings.keep_zeros else self.optimizer
        self.coded_size = CodedSize(graph, int(settings.coded_size)) if settings.coded_size is not None else None
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._channels_last = takes_channels_last(graph)
        self._images = image_inputs(graph) if settings.augment else ()
        self._dtype = chosen_dtype(graph, settings.precision, target)
        if self._dtype != torch.float32 and (told := self._refusal()):
            self._dtype = torch.float32
            warnings.warn(
                f"The network can't be trained in bfloat16 ({told}): float32 is used. "
                'What to do: nothing, or give precision="float32".',
                LeanlyWarning,
                stacklevel=4,
            )

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def __call__(self, batch: TrainBatch, factor: float) -> float:
        """Do one step at a share of the highest learning rate; return the loss before it.

        Args:
            batch: rows.
            factor: that share.

        Raises:
            Diverged: the loss is no number; nothing was changed.
            DataError: network or loss fail on the batch.
        """
        loss = self.loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"the loss became {value}", batch.place)
        if not loss.requires_grad:
            raise DataError(
                "the loss does not depend on any weight",
                where=batch.place,
                remedy="leave detach(), item() and torch.no_grad() out of the loss and of forward",
            )
        if self.coded_size is not None:
            loss = loss + self.coded_size.penalty(value)
        self.optimizer.zero_grad()
        loss.backward()
        if self._settings.clip:
            torch.nn.utils.clip_grad_norm_(list(self.graph.parameters()), self._settings.clip)
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._moves.step()
        if self.coded_size is not None:
            self.coded_size.hold(SLACK)
        return value

    def loss(self, batch: TrainBatch) -> Tensor:
        """Return the loss of a batch, its random numbers drawn from the seed and the batch's place."""
        inputs = batch.inputs
        if self._images:
            seed = seed_of(self._settings.seed, "augment", batch.epoch, batch.number)
            inputs = augmented(inputs, self._images, self._settings.augment, seed)
        device = self.graph.device
        inputs = placed(inputs, device, self._channels_last)
        batch = batch._replace(inputs=inputs, targets=batch.targets.to(device))
        reseed(self._settings.seed, "step", batch.epoch, batch.number)
        try:
            loss = self._objective(run(self._runs, inputs, self._dtype), batch)
        except LeanlyError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise DataError(
                f"network or loss failed in training ({first_line(error)})",
                where=batch.place,
                remedy="task.check() looks at every row; give targets that the loss takes",
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise DataError(
                f"the loss gives {tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__}",
                where="Task.loss",
                remedy="return one number a batch, a scalar tensor: loss.mean()",
            )
        return loss.reshape(())

    def _refusal(self) -> str:
        """Say why a step in bfloat16 fails, where it does: an operator may not mix the two dtypes."""
        twin = self.graph.clone().train()
        inputs = placed(list(twin.example), twin.device, self._channels_last)
        try:
            outputs = run(twin, inputs, self._dtype)
            loss = sum(output.sum() for output in outputs if output.requires_grad)
            if isinstance(loss, Tensor):
                loss.backward()
        except (RuntimeError, ValueError, TypeError) as error:
            return first_line(error)
        return ""

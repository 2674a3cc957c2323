"""The one loop: fine-tuning, distillation and quantization-aware training differ only in their objective."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leanly.budget import read_time
from leanly.data import Split
from leanly.errors import DataError, LeanlyWarning, TrainingError
from leanly.files import digest
from leanly.graph import Graph
from leanly.graph.checking import check_target, check_task
from leanly.graph.modes import training_as
from leanly.graph.tensors import find
from leanly.graph.zeros import told_if_filled
from leanly.scalars import check_whole
from leanly.seeding import fixed_random
from leanly.structure import build
from leanly.target import Target
from leanly.task import Task
from leanly.training.checkpoints import Checkpoints, optimizer_tensors, restore, restore_optimizer, snapshot
from leanly.training.evaluation import outputs_of
from leanly.training.pace import Pace
from leanly.training.padding import Padding
from leanly.training.precision import chosen_dtype, deterministic
from leanly.training.progress import Listener, Progress
from leanly.training.rows import Rows
from leanly.training.schedules import rate_factor
from leanly.training.settings import Settings
from leanly.training.stepping import Diverged, Objective, Stepper


def fit(
    graph: Graph,
    task: Task,
    objective: Objective,
    *,
    epochs: int,
    time: float | str | None = None,
    spent: float = 0.0,
    settings: Settings | None = None,
    target: Target | None = None,
    folder: str | Path | None = None,
    progress: Listener | None = None,
    about: Mapping[str, Any] | None = None,
    hidden: tuple[str, ...] = (),
    padding: Padding | None = None,
    rows: int | None = None,
) -> Graph:
    """Minimize an objective over the training rows and return the best state that validation saw.

    Without validation rows the last state comes back, and its notes say so. The graph given is not changed; the start
    counts as a state too, and the notes say where it is the one that comes back.

    Args:
        graph: the network to train.
        task: training rows, and validation rows with their metric where it has them.
        objective: `(flat outputs, batch) -> scalar tensor`.
        epochs: how often all training rows are seen, at most.
        time: seconds, "90s" or "10min" for everything; the schedule is fitted into it.
        spent: seconds of that time which are gone already.
        settings: how; the defaults where None.
        target: what the machine is good at; by default this one.
        folder: where checkpoints lie; a run that was killed goes on from them, one that ended is not done again.
        progress: is called after each step and each evaluation.
        about: JSON that says what the objective is, so that a checkpoint of another one is refused.
        hidden: names of nodes whose values the objective is given behind the outputs.
        padding: what is left out at the end of text; the objective is given rows without it.
        rows: of an epoch at most, drawn anew for each; None takes all.

    Raises:
        DataError: the task has no training rows.
        SettingError: an epoch count or time out of its range.
        TrainingError: the loss is no number before anything was gained.
        RunError: the folder holds the checkpoint of another run.
    """
    settings = settings or Settings()
    check_whole(epochs, 1, name="epochs", where="training")
    check_target(target, "training")
    seconds = None if time is None else read_time(time)
    split = training_rows(task)
    split.arguments.check_order(graph.inputs, f"split {split.name!r}")
    checkpoints = None
    if folder is not None:
        dtype = str(chosen_dtype(graph, settings.precision, target))
        checkpoints = Checkpoints(
            folder,
            _key(
                graph,
                task,
                epochs,
                seconds,
                settings,
                {"dtype": dtype, "padding": padding and asdict(padding), "rows": rows, **(about or {})},
            ),
        )
    trained = graph.clone()
    inside = padding.free(trained) if padding else trained
    modes = training_as(inside.module, dropout=settings.dropout, keep_statistics=settings.keep_statistics)
    with fixed_random(), deterministic(), modes:
        stepper = Stepper(inside.train(), objective, settings, target, hidden)
        batches = Rows(split, settings.batch_size, settings.seed, padding, rows)
        pace = Pace(epochs * batches.steps, seconds, spent=spent)
        run = _Run(stepper, batches, task, epochs, pace, settings, checkpoints, progress)
        run()
    notes = run.notes()
    if filled := told_if_filled(graph, trained):
        notes.append(f"training: {filled}; Settings(keep_zeros=True) keeps them")
    trained.notes = (*trained.notes, *(note for note in notes if note not in trained.notes))
    return trained.eval()


def training_rows(task: Task | None) -> Split:
    """Return the training split.

    Raises:
        DataError: there is none; it says what can be done without.
    """
    check_task(task, "training")
    split = None if task is None else task.split("train")
    if split is None:
        raise DataError(
            "training needs rows, and the task has no split 'train'",
            where="Task.train",
            remedy="give train=(inputs, targets), or (inputs, None) to learn from a teacher alone. Without rows "
            "nothing can be learned, but quantize.Static still works (it calibrates on validation), and so do cuts "
            "whose importance needs no data",
        )
    return split


def _key(
    graph: Graph, task: Task, epochs: int, seconds: float | None, settings: Settings, about: dict[str, Any]
) -> str:
    splits = {name: split.digest for name in ("train", "validation") if (split := task.split(name)) is not None}
    return digest(
        {
            "graph": graph.fingerprint(),
            "splits": splits,
            "metric": task.metric.name,
            "epochs": epochs,
            "seconds": seconds,
            "settings": asdict(settings),
            "about": about,
        }
    )


@dataclass
class _State:
    """What a run has to know besides its tensors to go on."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    metric: float | None = None
    best: float | None = None
    best_epoch: int = 0
    fits: bool = True
    price: float | None = None
    kept_step: int = 0
    seconds: float = 0.0
    evaluated: int = -1
    finished: bool = False
    history: list[dict[str, float | None]] = field(default_factory=list)


class _Run:
    def __init__(
        self,
        stepper: Stepper,
        rows: Rows,
        task: Task,
        epochs: int,
        pace: Pace,
        settings: Settings,
        checkpoints: Checkpoints | None,
        listener: Listener | None,
    ) -> None:
        self._stepper, self._graph, self._rows = stepper, stepper.graph, rows
        self._task, self._validation = task, task.split("validation")
        self._epochs, self._pace, self._settings = epochs, pace, settings
        self._checkpoints, self._listener = checkpoints, listener
        self._size = stepper.coded_size
        self._state = _State(fits=self._fits())
        self._place = "the weights that were given"
        self._warned = False
        self._best = snapshot(self._graph)
        # masks may hold infinity
        buffers = self._graph.module.named_buffers()
        self._finite_buffers = [name for name, buffer in buffers if bool(buffer.isfinite().all())]
        self._resume()

    def __call__(self) -> None:
        state = self._state
        if not state.finished:
            try:
                self._train()
            except Diverged as error:
                self._give_up(error)
            except KeyboardInterrupt as error:
                error.add_note(self._left())
                raise
            state.finished = True
            self._save()
        restore(self._graph, self._best)

    def notes(self) -> list[str]:
        """Say what of the state that comes back is not as it should be."""
        if self._size is not None and not self._state.fits:
            return [f"training: {self._size.told()}"]
        return self._told_choice()

    def _told_choice(self) -> list[str]:
        """Say where nothing speaks for the state that comes back, or where it is the one that was given."""
        if self._validation is None:
            return ["training: no validation rows say whether what was learned is better than what was given"]
        if self._state.step and not self._state.kept_step:
            metric = f"{self._task.metric.name} {self._state.best:.4f}"
            return [f"training: not kept, since no state was as good on validation as the one given ({metric})"]
        return []

    def _train(self) -> None:
        state = self._state
        if state.evaluated < 0:
            self._evaluate()
        while state.epoch < self._epochs and not self._stalled() and not self._pace.over():
            self._pace.begin()
            for batch in self._rows.epoch(state.epoch, state.batch):
                self._place = batch.place
                steps = self._pace.steps(state.step, self._rows.steps)
                self._say_if_short(steps)
                if steps <= state.step:
                    break
                factor = rate_factor(self._settings.schedule, state.step, steps, self._settings.warmup)
                if self._size is not None:
                    self._size.begin(state.step, steps)
                loss = self._stepper(batch, factor)
                state.step, state.batch = state.step + 1, state.batch + 1
                state.loss_sum, state.losses = state.loss_sum + loss, state.losses + 1
                self._pace.step()
                self._tell()
                if self._checkpoints is not None and self._checkpoints.due:
                    self._save()
                    self._pace.begin()
            else:
                state.epoch, state.batch = state.epoch + 1, 0
            if state.losses:
                self._evaluate()
            if state.batch:
                break  # the time is over
        if state.epoch == 0:
            self._say_if_short(state.step)

    def _evaluate(self) -> None:
        """Score the weights as they are, keep them where none were better, and begin a new count of losses."""
        state = self._state
        if not all(bool(parameter.isfinite().all()) for parameter in self._graph.parameters()):
            raise Diverged("the weights became nan", self._place)
        for name in self._finite_buffers:
            if not bool(find(self._graph.module, name).isfinite().all()):
                remedy = "a larger batch_size: batch norm needs more than one value of each channel; else a lower rate"
                raise Diverged(f"{name} became nan", self._place, remedy)
        if self._size is not None:
            self._size.hold()
        if self._validation is not None:
            with self._pace.evaluating():
                outputs = outputs_of(self._graph, self._validation, self._rows.padding)
                if state.step and any(bool(output.isnan().any()) for output in outputs):
                    raise Diverged("the predictions for validation became nan", self._place)
                state.metric = self._task.score(build(self._graph.returns, outputs), self._validation.targets)
        fits = self._fits()
        if not state.fits:
            state.best = None  # what is larger than asked for is nothing to compare with
        if fits or not state.fits:
            self._keep()
        state.fits |= fits
        state.evaluated = state.step
        self._tell()
        if state.losses:
            mean = state.loss_sum / state.losses
            state.history.append(
                {"epoch": state.epoch, "loss": mean, "metric": state.metric, "learning_rate": self._stepper.rate}
            )
        state.loss_sum, state.losses = 0.0, 0
        if self._checkpoints is not None and state.step:
            self._save()

    def _fits(self) -> bool:
        return self._size is None or self._size.bytes() <= self._size.size

    def _keep(self) -> None:
        """Take the weights as they are for the best, where none were better."""
        state = self._state
        if state.best is None or (state.metric is not None and state.metric > state.best):
            state.best_epoch = state.epoch
        if state.metric is None or state.best is None or state.metric >= state.best:
            self._best, state.best, state.kept_step = snapshot(self._graph), state.metric, state.step

    def _stalled(self) -> bool:
        patience = self._settings.patience
        return (
            bool(patience) and self._validation is not None and self._state.epoch - self._state.best_epoch >= patience
        )

    def _say_if_short(self, steps: int) -> None:
        """Warn once where the time is too short for one epoch."""
        if self._pace.limit is None or self._warned or steps >= self._rows.steps:
            return
        self._warned = True
        each = self._pace.step_seconds
        whole = f", all take about {each * self._rows.steps:.3g} s" if each else ""
        warnings.warn(
            f"The time of {self._pace.limit:.3g} s is too short for one epoch: about {steps} of its {self._rows.steps} "
            f"steps fit{whole}. What to do: give more time, or fewer rows.",
            LeanlyWarning,
            stacklevel=6,
        )

    def _give_up(self, error: Diverged) -> None:
        """Go back to the last good state; where no epoch was good, say so as an error."""
        state = self._state
        if not state.history:
            raise TrainingError(error.told, where=error.place, remedy=error.remedy) from error
        warnings.warn(
            f"Training stopped since {error.told} in {error.place}; the best state before it is kept "
            f"(epoch {state.best_epoch}). What to do: {error.remedy}.",
            LeanlyWarning,
            stacklevel=5,
        )

    def _left(self) -> str:
        """Say what an interrupted training leaves."""
        if self._checkpoints is None:
            return "Nothing of this training is kept. What to do: give folder=, and the same call goes on where it was."
        if not self._checkpoints.held:
            return "It ended before its first checkpoint: the same call begins anew."
        return f"What to do: the same call goes on from the checkpoint in {self._checkpoints.folder}."

    def _tell(self) -> None:
        if self._listener is None:
            return
        state, steps = self._state, self._pace.steps(self._state.step, self._rows.steps)
        self._listener(
            Progress(
                fraction=min(1.0, state.step / max(steps, 1)),
                epoch=state.epoch,
                step=state.step,
                loss=state.loss_sum / state.losses if state.losses else None,
                metric=state.metric,
                best=state.best,
                learning_rate=self._stepper.rate,
                seconds_left=self._pace.left(state.step, self._rows.steps),
            )
        )

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        self._state.seconds = self._pace.elapsed
        self._state.price = self._size.price if self._size is not None else None
        groups = {
            "model": snapshot(self._graph),
            "best": self._best,
            "optimizer": optimizer_tensors(self._stepper.optimizer),
        }
        tensors = {f"{group}/{name}": tensor for group, held in groups.items() for name, tensor in held.items()}
        self._checkpoints.write(asdict(self._state), tensors)

    def _resume(self) -> None:
        found = self._checkpoints.read() if self._checkpoints is not None else None
        if found is None:
            return
        state, tensors = found
        self._state = _State(**state)
        self._pace.spend(self._state.seconds)
        if self._size is not None:
            self._size.price = self._state.price

        def group(name: str) -> dict[str, Tensor]:
            return {key.partition("/")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}

        with torch.no_grad():
            restore(self._graph, group("model"))
        self._best = group("best")
        restore_optimizer(self._stepper.optimizer, group("optimizer"))

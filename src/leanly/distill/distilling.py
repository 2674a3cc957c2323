"""Distill: a network learns from a teacher and from labels."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leanly.budget import read_time
from leanly.distill.hidden import Pair, hidden_pairs
from leanly.distill.objectives import taught
from leanly.distill.teachers import Teacher, matched
from leanly.errors import LeanlyWarning, SettingError
from leanly.graph import Graph, check_graph
from leanly.scalars import check_whole, is_number
from leanly.target import Target
from leanly.task import Task
from leanly.training.evaluation import evaluate
from leanly.training.loop import fit, training_rows
from leanly.training.padding import find_padding
from leanly.training.progress import Listener, Progress
from leanly.training.settings import Settings
from leanly.training.stepping import Objective
from leanly.training.supervised import supervised, told_apart
from leanly.training.teachers import check_teacher, find_teacher

HARDLY = 0.01
"""Share of the metric by which a teacher may be worse than its student: an int8 network is better by luck at times."""


@dataclass(frozen=True)
class Distill:
    """Train a student on a teacher's outputs and the labels; the best state on validation comes back.

    Class logits are compared by the divergence of their softened classes (Hinton et al. 2015, "Distilling the Knowledge
    in a Neural Network"), other outputs by their squared error. The teacher runs once over all rows where they stay
    the same, and along with the student where they are augmented.

    Args:
        teacher: "original" for the task's model, a Graph, or a trained nn.Module.
        epochs: how often all training rows are seen, at most.
        temperature: by which logits are divided before they are compared.
        alpha: share of the teacher, the rest is the labels'; 1 needs no labels, 0 is training on labels alone.
        features: what hidden values count beside the outputs: their squared error as a share of the teacher's power. A
            student that was cut out of its teacher learns in far fewer epochs by them; of the teacher's channels those
            count that it still has. 0 compares outputs alone. Romero et al. 2015, "FitNets: Hints for Thin Deep Nets",
            without their regressors.
        rows: training rows of an epoch at most, drawn anew for each; None takes all.
        time: seconds, "90s" or "10min" for everything; the schedule is fitted into it.
        settings: how; see `leanly.training.Settings`.
        folder: where checkpoints lie; no part of a recipe.
        progress: is called with a `leanly.training.Progress` along the way; no part of a recipe.

    Raises:
        SettingError: a setting out of its range.
    """

    teacher: Any = "original"
    epochs: int = 3
    temperature: float = 4.0
    alpha: float = 0.9
    features: float = 0.0
    rows: int | None = None
    time: float | str | None = None
    settings: Settings = field(default_factory=Settings)
    folder: str | Path | None = field(default=None, compare=False, metadata={"recipe": False})
    progress: Listener | None = field(default=None, compare=False, metadata={"recipe": False})

    def __post_init__(self) -> None:
        check_teacher(self.teacher, "Distill")
        if isinstance(self.settings, Mapping):
            object.__setattr__(self, "settings", _read_settings(self.settings))
        check_whole(self.epochs, 1, name="epochs", where="Distill")
        if not (is_number(self.temperature) and self.temperature > 0):
            raise SettingError(f"temperature is {self.temperature!r}", where="Distill", remedy="give a number above 0")
        if not (is_number(self.alpha) and 0 <= self.alpha <= 1):
            raise SettingError(f"alpha is {self.alpha!r}", where="Distill", remedy="give a share from 0 to 1")
        if not (is_number(self.features) and self.features >= 0):
            raise SettingError(f"features is {self.features!r}", where="Distill", remedy="give 0 or a number above")
        if self.rows is not None:
            check_whole(self.rows, 1, name="rows", where="Distill")
        if self.time is not None:
            read_time(self.time)

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return the student, taught.

        Raises:
            DataError: the task has no training rows, or the labels that `alpha` asks for.
            SettingError: student and teacher have other outputs, or the teacher is known by its hash only.
            TrainingError: the loss is no number before anything was gained.
        """
        check_graph(graph, "Distill")
        split = training_rows(task)
        assert task is not None
        if self.alpha < 1:
            split.check_labelled(f"alpha={self.alpha:g}", "or use alpha=1: the teacher alone needs none")
        begun = time.monotonic()
        about: dict[str, Any] = {"temperature": self.temperature, "alpha": self.alpha, "loss": told_apart(task.loss)}
        listener = self.progress
        objective: Objective = supervised(graph, task)
        hidden: tuple[str, ...] = ()
        teacher: Graph | None = None
        order: tuple[int, ...] = ()
        if self.alpha > 0 or self.features > 0:
            teacher = find_teacher(self.teacher, task, "Distill", graph.device)
            order = matched(graph, teacher)
        padding = find_padding([graph] if teacher is None else [graph, teacher], split)
        if teacher is not None:
            seconds = None if self.time is None else read_time(self.time)
            pairs = self._pairs(graph, teacher)
            hidden = tuple(pair.student for pair in pairs)
            theirs = tuple(pair.teacher for pair in pairs)
            teach = Teacher(teacher, split, self.settings, self.epochs, seconds, target, theirs, padding)
            objective = taught(
                graph,
                task,
                teach,
                order,
                temperature=self.temperature,
                alpha=self.alpha,
                features=self.features,
                pairs=pairs,
            )
            about |= {"teacher": teacher.fingerprint(), "features": self.features}
            listener = _Watch(teacher, task, self.progress)
        return fit(
            graph,
            task,
            objective,
            epochs=self.epochs,
            time=self.time,
            spent=time.monotonic() - begun,
            settings=self.settings,
            target=target,
            folder=self.folder,
            progress=listener,
            about=about,
            hidden=hidden,
            padding=padding,
            rows=self.rows,
        )

    def _pairs(self, graph: Graph, teacher: Graph) -> tuple[Pair, ...]:
        if self.features == 0:
            return ()
        pairs = hidden_pairs(graph, teacher)
        if not pairs:
            warnings.warn(
                "No hidden value of the student has its like in the teacher: only outputs are compared. "
                "What to do: nothing, or features=0.",
                LeanlyWarning,
                stacklevel=4,
            )
        return pairs


class _Watch:
    """Warns at the start where the student is better than its teacher; passes on what the run tells."""

    def __init__(self, teacher: Graph, task: Task, listener: Listener | None) -> None:
        self._teacher, self._task, self._listener = teacher, task, listener

    def __call__(self, progress: Progress) -> None:
        split = self._task.split("validation")
        if progress.step == 0 and progress.metric is not None and split is not None:
            metric = evaluate(self._teacher, self._task, split)
            if metric < progress.metric - HARDLY * abs(progress.metric):
                warnings.warn(
                    f"The teacher is worse than the student it should teach: {self._task.metric.name} on validation "
                    f"is {metric:.4f} and {progress.metric:.4f}. What to do: give a better teacher, or a lower alpha.",
                    LeanlyWarning,
                    stacklevel=8,
                )
        if self._listener is not None:
            self._listener(progress)


def _read_settings(data: Mapping[str, Any]) -> Settings:
    try:
        return Settings(**data)
    except TypeError as error:
        raise SettingError(
            f"settings hold what this leanly does not know ({error})", where="Distill.settings", remedy="mend them"
        ) from error

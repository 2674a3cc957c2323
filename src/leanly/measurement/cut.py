"""What a cut took and what it cost: scores and shapes by layer, and the paired drop on unseen rows, by class too."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import gt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from leanly.budget import read_fraction
from leanly.errors import DataError, LeanlyError, SettingError
from leanly.measurement.constancy import says_the_same
from leanly.measurement.records import PairedDrop
from leanly.measurement.statistics import paired_drop, paired_drop_exact
from leanly.structure import build

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node

    from leanly.data import Split
    from leanly.graph import Cost, Graph
    from leanly.task import Task

Criterion = Callable[..., dict[str, Any]]
Progress = Callable[[str], None]
MOST_CLASSES = 50
"""Of more no table by class is made."""


@dataclass(frozen=True)
class LayerCut:
    """What was taken of a layer.

    Args:
        name: of the node.
        source: the user's line.
        before, after: the shape of its weight; `after` is empty where the layer is gone.
        zeros: the share of what is left that is zero.
        taken: by criterion, the share of what it scores the weight that left; a criterion that says nothing of this
            weight is left out.
    """

    name: str
    source: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    zeros: float
    taken: Mapping[str, float]

    @property
    def weights_taken(self) -> float:
        """The share of its weights that left."""
        return 1 - math.prod(self.after) / math.prod(self.before) if self.after else 1.0


@dataclass(frozen=True)
class ClassDrop:
    """How many rows of a class are right before and after, and the paired drop."""

    name: str
    before: float
    after: float
    drop: PairedDrop


@dataclass(frozen=True)
class CutReport:
    """A cut, described and verified.

    Args:
        metric: its name.
        before, after: the metric of the whole and of the smaller network.
        drop: tested against `max_drop`.
        max_drop: the boundary.
        split: whose rows were predicted.
        classes: where targets are class numbers.
        layers: in the order they run.
        criteria: names of those that scored, in order.
        scored_on: the split whose rows `untrained` is about.
        untrained: by criterion, the metric on those rows after channels with as many MACs left by it, batch norm
            taken anew and nothing trained; empty where the cut took no MACs.
        macs, parameters: before and after, of a row.
        notes: criteria that could not score, and why; what the passes noted.
    """

    metric: str
    before: float
    after: float
    drop: PairedDrop
    max_drop: float
    split: str
    classes: tuple[ClassDrop, ...]
    layers: tuple[LayerCut, ...]
    criteria: tuple[str, ...]
    scored_on: str
    untrained: Mapping[str, float]
    macs: tuple[int, int]
    parameters: tuple[int, int]
    notes: tuple[str, ...]


def examine_cut(
    graph: Graph,
    small: Graph,
    task: Task,
    criteria: Sequence[Criterion],
    *,
    max_drop: float | str = 0.01,
    progress: Progress | None = None,
) -> CutReport:
    """Score what a cut took, and compare both networks on rows that neither was trained on.

    Args:
        graph: before the cut.
        small: after it, trained on or not.
        task: `test` is predicted, `validation` where there is none.
        criteria: of `leanly.prune`, or own ones of that signature; they score the whole network.
        max_drop: of the metric, that is tested: 0.01 or "1%".
        progress: is told the criterion that is at work.

    Raises:
        DataError: the task has neither `test` nor `validation`.
        SettingError: something else than a graph, a task or a criterion was given, the smaller graph as the first, or
            one that is no part of it.
    """
    from leanly.graph.checking import check_graph, check_task
    from leanly.training.evaluation import outputs_of

    check_graph(graph, "the graph before the cut")
    check_graph(small, "the graph after the cut")
    check_task(task, "the task of a cut")
    if callable(criteria):
        raise SettingError("criteria is a function alone", where="criteria", remedy="give a tuple: (prune.magnitude,)")
    for criterion in criteria:
        if not callable(criterion):
            raise SettingError(
                f"the criterion {criterion!r} can't be called",
                where="criteria",
                remedy="give functions of leanly.prune, as criteria=(prune.magnitude, prune.gradient)",
            )
    max_drop = read_fraction("max_drop", max_drop)
    split = task.split("test") or task.split("validation")
    if split is None:
        raise DataError(
            "a cut is verified on rows, and there are none", where="Task", remedy="give test=(inputs, targets)"
        )
    costs = [one.cost(1) for one in (graph, small)]
    if costs[1].parameters > costs[0].parameters:
        raise SettingError(
            f"the network after the cut has {costs[1].parameters:,} parameters, the one before it "
            f"{costs[0].parameters:,}",
            where="the graph after the cut",
            remedy="give the whole network first, then the smaller one",
        )
    _check_related(graph, small)
    predictions = [build(one.returns, [output.numpy() for output in outputs_of(one, split)]) for one in (graph, small)]
    targets = np.asarray(split.targets)
    tell = progress or (lambda line: None)
    scored, notes = _scored(graph, task, criteria, tell)
    notes += [
        f"the {which} network predicts the same for every row: {task.metric.name} tells nothing of it"
        for which, one in zip(("whole", "smaller"), predictions, strict=True)
        if says_the_same(one, task.metric)
    ]
    tried = task.split("validation") or split
    gone = 1 - costs[1].macs / costs[0].macs
    untrained: dict[str, float] = {}
    if 0 < gone < 1:
        known = [criterion for criterion in criteria if _name(criterion) in scored]
        untrained, said = _untrained(graph, task, gone, known, tried, tell)
        notes += said
    return CutReport(
        metric=task.metric.name,
        before=task.metric.score(predictions[0], targets),
        after=task.metric.score(predictions[1], targets),
        drop=paired_drop(task.metric, predictions[0], predictions[1], targets, max_drop),
        max_drop=max_drop,
        split=split.name,
        classes=_classes(task, predictions, targets, max_drop),
        layers=tuple(_layers(graph, small, costs[0], scored)),
        criteria=tuple(scored),
        scored_on=tried.name,
        untrained=untrained,
        macs=(costs[0].macs, costs[1].macs),
        parameters=(costs[0].parameters, costs[1].parameters),
        notes=(*notes, *small.notes),
    )


def _check_related(graph: Graph, small: Graph) -> None:
    """Raise a SettingError where the weights of the smaller network are no part of the whole one's."""
    whole = {name: tuple(weight.shape) for name, weight in graph.named_parameters()}
    left = {name: tuple(weight.shape) for name, weight in small.named_parameters() if name in whole}
    odd = [
        f"{name} is {shape}, before the cut {whole[name]}"
        for name, shape in left.items()
        if len(shape) != len(whole[name]) or any(map(gt, shape, whole[name]))
    ]
    if odd or not left:
        raise SettingError(
            f"the second network is no part of the first: {odd[0] if odd else 'no weight has the same name'}",
            where="the graph after the cut",
            remedy="give the graph that passes of leanly.prune were given, and what they gave back",
        )


def _scored(
    graph: Graph, task: Task, criteria: Sequence[Criterion], tell: Progress
) -> tuple[dict[str, Mapping[str, Tensor]], list[str]]:
    found: dict[str, Mapping[str, Tensor]] = {}
    notes = []
    for number, criterion in enumerate(criteria, 1):
        name = _name(criterion)
        tell(f"scored by {name} ({number} of {len(criteria)})")
        try:
            scores = criterion(graph, task)
        except LeanlyError as error:
            notes.append(f"{name} says nothing here: {error.what}")
        else:
            if scores:
                found[name] = scores
            else:
                notes.append(f"{name} says nothing here: it scores no weight of this network")
    return found, notes


def _name(criterion: Criterion) -> str:
    return getattr(criterion, "__name__", type(criterion).__name__)


def _untrained(
    graph: Graph, task: Task, gone: float, criteria: Sequence[Criterion], split: Split, tell: Progress
) -> tuple[dict[str, float], list[str]]:
    from leanly.prune import Channels
    from leanly.training import BatchNorm
    from leanly.training.evaluation import evaluate

    found, notes = {}, []
    for number, criterion in enumerate(criteria, 1):
        tell(f"cut by {_name(criterion)} ({number} of {len(criteria)})")
        try:
            small = BatchNorm()(Channels(macs=gone, importance=criterion)(graph, task), task)
        except LeanlyError as error:
            notes.append(f"{_name(criterion)} takes no channels here: {error.what}")
        else:
            found[_name(criterion)] = evaluate(small.eval(), task, split)
    return found, notes


def _layers(graph: Graph, small: Graph, cost: Cost, scored: Mapping[str, Mapping[str, Tensor]]) -> list[LayerCut]:
    from leanly.graph.nodes import argument_names, reads_tensor

    left, whole = dict(small.named_parameters()), dict(graph.named_parameters())
    multiplies = {node.name for node in cost.nodes if node.macs}
    found: list[LayerCut] = []
    seen: set[str] = set()
    for node in graph.module.graph.nodes:
        if node.name not in multiplies and not (hasattr(node.target, "_schema") and "weight" in argument_names(node)):
            continue
        read = [str(one.target) for one in node.all_input_nodes if reads_tensor(one)]
        weights = [name for name in read if name in whole and whole[name].ndim > 1]
        for name in weights:
            if name in seen:
                continue
            seen.add(name)
            taken: dict[str, float] = {}
            for criterion, scores in scored.items():
                of = name if name in scores else _scale_behind(node)
                if of in scores:
                    taken[criterion] = _taken(scores[of], graph.kept.get(of), small.kept.get(of)) if of in left else 1.0
            after = tuple(left[name].shape) if name in left else ()
            zeros = float((left[name] == 0).float().mean()) if name in left else 0.0
            called = node.name if len(weights) == 1 else f"{node.name}, {name}"
            found.append(LayerCut(called, graph.source(node), tuple(whole[name].shape), after, zeros, taken))
    return found


def _scale_behind(node: Node) -> str:
    """Name the scale of the norm that alone reads a layer: a criterion may score the layer's channels there."""
    from leanly.graph.nodes import argument, reads_tensor
    from leanly.graph.norms import BATCH_NORM

    users = list(node.users)
    if len(users) != 1 or users[0].target is not BATCH_NORM or not reads_tensor(argument(users[0], "weight")):
        return ""
    return str(argument(users[0], "weight").target)


def _taken(scores: Any, before: Sequence[Any] | None, after: Sequence[Any] | None) -> float:
    """Return the share of a weight's score that left, by the indices of the first capture that each graph has."""
    scores = torch.as_tensor(scores).double().abs().cpu()
    total = float(scores.sum())
    for dim, indices in enumerate(after or ()):
        if indices is not None:
            had = before[dim] if before is not None and before[dim] is not None else torch.arange(scores.shape[dim])
            scores = scores.index_select(dim, torch.isin(had, indices).nonzero().flatten())
    return 1 - float(scores.sum()) / total if total > 0 else 0.0


def _classes(task: Task, predictions: Sequence[Any], targets: np.ndarray, max_drop: float) -> tuple[ClassDrop, ...]:
    if task.metric.per_example is None or targets.ndim != 1 or targets.dtype.kind not in "iu":
        return ()
    classes = np.unique(targets)
    if len(classes) > MOST_CLASSES:
        return ()
    right = [np.asarray(task.metric.per_example(one, targets)).astype(float) for one in predictions]
    found = []
    for number in classes:
        before, after = (one[targets == number] for one in right)
        drop = paired_drop_exact(before, after, max_drop)
        found.append(ClassDrop(str(number), float(before.mean()), float(after.mean()), drop))
    return tuple(found)

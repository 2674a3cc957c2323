"""What is compared between student and teacher: softened classes where outputs are logits, values elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from leanly.checks import class_count
from leanly.data import Split
from leanly.distill.hidden import Pair
from leanly.graph import Graph
from leanly.metrics import first_output
from leanly.structure import build
from leanly.task import Task
from leanly.training.rows import TrainBatch
from leanly.training.stepping import Objective

Compare = Callable[[Tensor, Tensor, float], Tensor]
"""`(student, teacher, temperature) -> scalar tensor`, 0 where they agree."""


def classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened classes; logits are `(rows, classes, ...)`.

    Times the squared temperature, so that its gradient keeps its size beside that of the labels (Hinton et al. 2015,
    "Distilling the Knowledge in a Neural Network").
    """
    wanted = (teacher / temperature).log_softmax(1)
    found = (student / temperature).log_softmax(1)
    return (wanted.exp() * (wanted - found)).sum(1).mean() * temperature**2


def binary(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Do the same for one logit a row, against a second class of logit 0."""
    return classes(_two_classes(student), _two_classes(teacher), temperature)


def values(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean squared error; a temperature means nothing here."""
    return functional.mse_loss(student, teacher)


def _two_classes(logits: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(logits), logits], 1)


def comparison(graph: Graph, task: Task) -> Compare:
    """Choose how the main output is compared, from the task's metric, loss and labels."""
    outputs = list(graph.clone().eval().flat(*graph.example))
    main = outputs[main_output(graph)].detach()
    split = task.split("train")
    if task.loss == "cross_entropy" and main.ndim > 2 and split is not None:
        _, targets = next(split.flat_batches(1, 1))
        if not targets.is_floating_point() and targets.ndim == main.ndim - 1:
            return classes
    if task.loss == "binary_cross_entropy":
        return binary
    if task.loss == "kl":
        return classes
    count = class_count(build(graph.returns, [output.detach() for output in outputs]), task.metric, task.loss, split)
    if count is None:
        return classes if callable(task.loss) and split is not None and _number_classes(main, split) else values
    return classes if main.ndim == 2 and main.shape[1] > 1 else binary


def _number_classes(logits: Tensor, split: Split) -> bool:
    """Say whether the labels are numbers of classes that end where the logits `(rows, classes)` do."""
    if not split.labelled:
        return False
    targets = split.targets
    if logits.ndim != 2 or logits.shape[1] < 2 or targets.ndim != 1 or targets.dtype.kind not in "iu":
        return False
    return int(targets.min()) >= 0 and int(targets.max()) == logits.shape[1] - 1


def main_output(graph: Graph) -> int:
    """Return the position of the output that metrics and losses by name look at."""
    return first_output(build(graph.returns, range(len(graph.outputs))))


def taught(
    graph: Graph,
    task: Task,
    teach: Callable[[TrainBatch], tuple[Tensor, ...]],
    order: Sequence[int],
    *,
    temperature: float,
    alpha: float,
    features: float = 0.0,
    pairs: Sequence[Pair] = (),
) -> Objective:
    """Return the objective `alpha * teacher + (1 - alpha) * labels + features * hidden values`.

    Beside the main output, every other output of floats is compared by its values.

    Args:
        graph: the student, whose structure of outputs the loss is given.
        task: its loss compares with the labels.
        teach: gives the teacher's flat outputs of a batch, behind them its values of the pairs.
        order: for each output of the student the position of the teacher's.
        temperature: by which logits are divided before they are compared.
        alpha: the teacher's share, 0 to 1.
        features: what the mean error of the pairs counts.
        pairs: the values that follow the outputs of both.
    """
    main, compare = main_output(graph), comparison(graph, task)
    floats = [index for index, spec in enumerate(graph.outputs) if spec.dtype.startswith(("float", "bfloat"))]
    loss = task.loss_function

    count = len(graph.outputs)

    def objective(outputs: tuple[Tensor, ...], batch: TrainBatch) -> Tensor:
        parts: list[Tensor] = []
        wanted = teach(batch) if alpha > 0 or pairs else ()
        if alpha > 0:
            parts += [
                alpha * (compare if index == main else values)(outputs[index], wanted[order[index]], temperature)
                for index in floats
            ]
        if alpha < 1:
            parts.append((1 - alpha) * loss(build(graph.returns, outputs[:count]), batch.targets))
        if pairs:
            found = zip(pairs, outputs[count:], wanted[count:], strict=True)
            parts.append(features / len(pairs) * torch.stack([pair.loss(*values) for pair, *values in found]).sum())
        return torch.stack(parts).sum()

    return objective

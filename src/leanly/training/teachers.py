"""Who teaches: the task's own model, or another that was given."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from leanly.checks import named_tensors
from leanly.errors import SettingError
from leanly.graph import Graph, capture, check_graph
from leanly.graph.tensors import every
from leanly.task import Task
from leanly.training.supervised import original

ORIGINAL = "original"
HASH = "sha256:"

_ORIGINALS: WeakKeyDictionary[Task, Graph] = WeakKeyDictionary()


def check_teacher(teacher: Any, where: str) -> None:
    """Raise a SettingError unless it is "original", a hash, a Graph or a module."""
    if isinstance(teacher, Graph | nn.Module) or teacher == ORIGINAL:
        return
    if isinstance(teacher, str) and teacher.startswith(HASH):
        return
    raise SettingError(
        f"the teacher is {teacher!r}",
        where=f"{where}.teacher",
        remedy='give "original" for the task\'s own model, a Graph, or a trained nn.Module',
    )


def find_teacher(teacher: Any, task: Task, where: str, device: torch.device) -> Graph:
    """Return the teacher as a graph in evaluation mode, on a device; the task's own model is captured once.

    Raises:
        SettingError: only its hash is known.
        CaptureError: a module that can't be captured.
        DataError: it takes its inputs in another order than the task gives them.
    """
    found = _teacher(teacher, task, where)
    task.arguments.check_order(found.inputs, f"{where}.teacher")
    return found if found.device == device else found.clone().to(device)


def _teacher(teacher: Any, task: Task, where: str) -> Graph:
    if isinstance(teacher, Graph):
        check_graph(teacher, f"{where}.teacher")
        return teacher.clone().eval()
    if isinstance(teacher, nn.Module):
        return capture(teacher, example=task.example, dynamic=task.dynamic, static=tuple(task.static)).eval()
    if teacher != ORIGINAL:
        raise SettingError(
            f"the recipe names its teacher by content, {teacher[:19]}..., and that graph is not here",
            where=f"{where}.teacher",
            remedy="open the graph and give it: Recipe.from_json(data, teachers=[leanly.Graph.open(folder)])",
        )
    kept = _ORIGINALS.get(task)
    if kept is None or not _same_weights(task, kept):
        kept = _ORIGINALS[task] = original(task).eval()
    return kept


def _same_weights(task: Task, graph: Graph) -> bool:
    """Say whether the task's model is still what was captured: its owner may have trained it on."""
    held = every(graph.module)
    return all(torch.equal(tensor, held.get(name, tensor)) for name, tensor, _ in named_tensors(task.model))

"""What is said to who gives something else where a graph is needed."""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import Node

from leanly.checks import check_numbers
from leanly.errors import SettingError
from leanly.graph.graph import Graph
from leanly.suggest import suggestion
from leanly.target import Target
from leanly.task import Task


def check_graph(graph: object, where: str) -> None:
    """Check what a pass was given.

    Raises:
        SettingError: something else than a graph, as the module itself.
        DataError: a parameter holds NaN or infinity.
    """
    _check_kind(graph, Graph, where, "give leanly.capture(model, example=...)")
    assert isinstance(graph, Graph), "it was checked"
    for name, parameter in graph.named_parameters():
        if parameter.is_floating_point():
            check_numbers(name, parameter.detach(), is_parameter=True)


def check_task(task: object, where: str) -> None:
    """Raise a SettingError where something else than a task, or None, was given, as rows alone."""
    if task is not None:
        _check_kind(task, Task, where, "give leanly.Task(model, example=..., train=...)")


def check_target(target: object, where: str) -> None:
    """Raise a SettingError where something else than a target, or None, was given, as a device alone."""
    if target is not None:
        _check_kind(target, Target, where, 'give leanly.Target("cpu"), or leave it out')


def _check_kind(given: object, kind: type, where: str, remedy: str) -> None:
    if not isinstance(given, kind):
        raise SettingError(
            f"a {type(given).__name__} was given where a {kind.__name__} is needed", where=where, remedy=remedy
        )


def check_nodes(graph: Graph, setting: str, names: Iterable[str], where: str) -> None:
    """Raise a SettingError where a setting names a node that the graph lacks.

    The nearest ones are shown; for a module of the user's, those that read its tensors.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes if node.op == "call_function"}
    for name in names:
        if name not in nodes:
            remedy = suggestion(name, nodes)
            if inside := [node.name for node in nodes.values() if _reads_module(node, name)]:
                remedy = f"nodes are named, not modules: what {name!r} holds is read by {', '.join(inside)}"
            raise SettingError(f"{setting} names {name!r}, which is no node", where=where, remedy=remedy)


def _reads_module(node: Node, module: str) -> bool:
    sources = (source for source in node.all_input_nodes if source.op == "get_attr")
    return any(str(source.target).startswith(f"{module}.") for source in sources)

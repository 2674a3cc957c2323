"""BatchNorm: the running statistics of batch norm, taken anew after the layers before it changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx import Node

from leanly.errors import DataError, SettingError
from leanly.graph import Graph, check_graph, modes
from leanly.graph.checking import check_task
from leanly.graph.nodes import argument
from leanly.graph.rows import check_rows
from leanly.graph.tensors import find
from leanly.scalars import is_whole
from leanly.seeding import fixed_random
from leanly.target import Target
from leanly.task import Task
from leanly.training.precision import deterministic, placed, takes_channels_last
from leanly.training.rows import Rows


@dataclass(frozen=True)
class BatchNorm:
    """Estimate the running means and variances of batch norm again, each the plain average over training batches.

    A pass to put behind every cut; weights, and norms that never follow the batch, stay as they are. Yu and Huang 2019,
    "Universally Slimmable Networks and Improved Training Techniques", section 3.1 (post-statistics).

    Args:
        rows: training rows that are read; labels are not used.
        batch_size: rows in a batch.

    Raises:
        SettingError: a setting below its least.
    """

    rows: int = 2048
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name, low in (("rows", 1), ("batch_size", 2)):
            value = getattr(self, name)
            if not is_whole(value, low):
                raise SettingError(f"{name} is {value!r}", where="BatchNorm", remedy=f"give {low} or more")

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return the graph with new statistics; one without batch norm comes back as it is, with a note.

        Raises:
            DataError: the task has neither training nor validation rows, or they are not what the graph takes.
        """
        check_graph(graph, "BatchNorm")
        check_task(task, "BatchNorm")
        graph = graph.clone()
        norms = {node for node in graph.module.graph.nodes if modes.follows_batch(node)}
        if not norms:
            reason = "no batch norm follows the batch (quantize.Static and quantize.Equalize fold it: go before them)"
            graph.notes = (*graph.notes, f"training.BatchNorm: nothing to estimate: {reason}")
            return graph
        split = task.seen_split() if task is not None else None
        if split is None:
            raise DataError(
                "new statistics of batch norm need data, and the task has none",
                where="BatchNorm",
                remedy="give the task train= or validation= data; labels are not used. Without it the old ones stay",
            )
        split.arguments.check_order(graph.inputs, f"split {split.name!r}")
        channels_last, training = takes_channels_last(graph), graph.training
        counting = _Counting(graph.eval().module, norms)
        rows = Rows(split, self.batch_size, seed=0)
        with torch.no_grad(), deterministic(), fixed_random():
            for batch in rows.epoch(0):
                if batch.number * self.batch_size >= self.rows:
                    break
                check_rows(graph, batch.inputs, f"split {split.name!r}", batch.rows)
                counting.run(*placed(batch.inputs, graph.device, channels_last))
        return graph.train(training)


class _Counting(fx.Interpreter):
    """Runs norms on the batch's own statistics, their momentum 1/n at the n-th batch: the plain average."""

    def __init__(self, module: fx.GraphModule, norms: set[Node]) -> None:
        super().__init__(module)
        self._norms = norms
        self._seen: Counter[int] = Counter()

    def run_node(self, n: Node) -> Any:
        if n not in self._norms:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        mean = find(self.module, str(argument(n, "running_mean").target))  # type: ignore[arg-type]
        self._seen[id(mean)] += 1
        return _in_training(n, args, kwargs, 1 / self._seen[id(mean)])


def _in_training(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], momentum: float) -> Any:
    given = {str(modes.flag_of(node)): True, "momentum": momentum}
    values = list(args)
    for position, declared in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if declared.name in given:
            if position < len(values):
                values[position] = given[declared.name]
            else:
                kwargs[declared.name] = given[declared.name]
    return node.target(*values, **kwargs)  # type: ignore[operator]

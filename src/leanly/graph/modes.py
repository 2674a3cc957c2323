"""What differs between training and inference: the literal flags of batch norm, dropout, attention and recurrence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from leanly.graph.nodes import argument, reads_tensor, set_argument

aten = torch.ops.aten

FLAG_NAMES = ("training", "train", "use_input_stats", "dropout_p")
"""The argument of a schema that says whether the operator trains; the first that a schema has counts."""
STATISTICS = (aten.batch_norm.default, aten.instance_norm.default)
DROPOUTS = (
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
)
KEY = "modes"
"""Where a node's meta keeps its flag as (value in training, value in evaluation)."""


def flag_of(node: fx.Node) -> str | None:
    """Name the argument of a node that says whether it trains; None where there is none."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return None
    names = {argument.name for argument in schema.arguments}
    return next((name for name in FLAG_NAMES if name in names), None)


def off_value(node: fx.Node, name: str) -> Any:
    """Return what the flag is in evaluation: statistics that were never kept are always those of the batch."""
    if node.target in STATISTICS:
        return argument(node, "running_mean") is None
    return 0.0 if name == "dropout_p" else False


def switched(graph: fx.Graph) -> Iterator[tuple[fx.Node, str, tuple[Any, Any]]]:
    """Iterate over the nodes that have a flag, its name, and its (training, evaluation) values."""
    for node in graph.nodes:
        name = flag_of(node)
        if name is not None:
            if KEY not in node.meta:
                off = off_value(node, name)
                node.meta[KEY] = (argument(node, name) if name == "dropout_p" else True, off)
            yield node, name, tuple(node.meta[KEY])  # type: ignore[misc]


def switch(module: fx.GraphModule, training: bool) -> None:
    """Set every flag to its training or its evaluation value."""
    changed = False
    for node, name, (train_value, eval_value) in switched(module.graph):
        value = train_value if training else eval_value
        if argument(node, name) != value:
            set_argument(node, name, value)
            changed = True
    if changed:
        module.recompile()


def has_dropout(module: fx.GraphModule) -> bool:
    """Say whether training draws random numbers."""
    return any(True for _ in _dropping(module)) or draws(module)


@contextlib.contextmanager
def training_as(module: fx.GraphModule, *, dropout: bool, keep_statistics: bool) -> Iterator[None]:
    """Let a switch to training leave dropout out, or batch norm on its stored statistics, while the block runs."""
    off = [] if dropout else list(_dropping(module))
    if keep_statistics:
        off += [node for node, *_ in switched(module.graph) if follows_batch(node)]
    flags = [(node, node.meta[KEY]) for node in off]
    for node, (_, value) in flags:
        node.meta[KEY] = (value, value)
    try:
        yield
    finally:
        for node, before in flags:
            node.meta[KEY] = before


def follows_batch(node: fx.Node) -> bool:
    """Say whether a node keeps running statistics of the batches it sees in training."""
    if node.target not in STATISTICS or not reads_tensor(argument(node, "running_mean")):
        return False
    return bool(node.meta.get(KEY, (True, False))[0])


def _dropping(module: fx.GraphModule) -> Iterator[fx.Node]:
    """Iterate over the nodes that drop values in training."""
    for node, name, (train_value, _) in switched(module.graph):
        if name == "train":
            drops = train_value and argument(node, "p" if node.target in DROPOUTS else "dropout")
        else:
            drops = name == "dropout_p" and train_value
        if drops:
            yield node


def draws(module: fx.GraphModule) -> bool:
    """Say whether a node draws random numbers in both modes, with no flag to stop it (stochastic depth)."""
    return any(
        node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        for node in module.graph.nodes
        if node.target not in DROPOUTS and flag_of(node) is None
    )

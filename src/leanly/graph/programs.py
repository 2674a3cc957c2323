"""Capturing what the user has exported already: a `torch.export.ExportedProgram`."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from leanly.errors import CaptureError
from leanly.graph import modes
from leanly.graph.cleaning import assemble, clean
from leanly.graph.comparing import compare, fits_training, mismatch
from leanly.graph.example import Example, call, read_example
from leanly.graph.exporting import Flat, run_once
from leanly.graph.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.outputs import output_specs
from leanly.structure import flatten


def capture_program(
    program: ExportedProgram,
    *,
    example: Any,
    dynamic: Mapping[str, Mapping[int, str]] | None,
    static: tuple[str, ...],
) -> Graph:
    """Turn an exported program into a graph, in the mode it was exported in.

    Raises:
        CaptureError: the program's batch is fixed, the example is not one it takes, or it computes something else.
    """
    module = _module(program)
    given = read_example(module.forward, example, dynamic, static)
    flat = Flat(_module(program), given.arguments)
    run_once(flat, given)
    returns = flat.seen.structure
    names = _order_inputs(module, given)
    _check_batch(module, names, given)
    _order_outputs(module)
    ordered = tuple(given.tensors[[spec.name for spec in given.inputs].index(name)] for name in names)
    graph = clean(module, names, ordered)
    _sort_placeholders(graph, names, [spec.name for spec in given.inputs])
    training = any(
        argument(node, name) != modes.off_value(node, name)
        for node in graph.nodes
        if (name := modes.flag_of(node)) is not None
    )
    for node in graph.nodes:
        name = modes.flag_of(node)
        if name is not None:
            value = argument(node, name)
            on = value if training or name == "dropout_p" else True
            node.meta[modes.KEY] = (on, modes.off_value(node, name))
    assembled = assemble(graph, module, _module(program), prefix="")
    notes = () if training else ("captured from a program exported in evaluation mode",)
    result = Graph(
        assembled,
        inputs=given.inputs,
        outputs=output_specs(assembled, returns, given),
        arguments=given.arguments,
        returns=returns,
        example=given.tensors,
        training=training,
        notes=notes,
    )
    if not training or fits_training(result):
        told = compare(result, flat, given, training=training)
        if told:
            raise mismatch(told, "training" if training else "evaluation")
    return result


def _module(program: ExportedProgram) -> fx.GraphModule:
    """Return the program as a module that shares no tensor with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch says of its own copying
        module: Any = copy.deepcopy(program.module())
    return module


def _order_inputs(module: fx.GraphModule, given: Example) -> list[str]:
    """Name the program's placeholders, in its own order, after our inputs; drop those of constants."""
    args, kwargs = call(given.arguments, [_Leaf(position) for position in range(len(given.inputs))])  # type: ignore[arg-type]
    positional, keyword = module._in_spec.children()  # type: ignore[operator, union-attr]
    declared = list(inspect.signature(module.forward).parameters)[len(args) : positional.num_children]
    try:
        args = (*args, *(kwargs.pop(name) for name in declared))
        leaves, _ = pytree.tree_flatten((args, {key: kwargs.pop(key) for key in keyword.context}))
    except KeyError as error:
        raise CaptureError(
            f"the program takes an input {error} that the example has not",
            where="example",
            remedy="add it to the example",
        ) from error
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    names = []
    for leaf, node in zip(leaves, placeholders, strict=True):
        if isinstance(leaf, _Leaf):
            names.append(given.inputs[leaf.position].name)
        elif any(user.target != "_guards_fn" for user in node.users):
            raise CaptureError(
                f"the program reads the constant input {node.name}",
                where="example",
                remedy="export it without that input",
            )
        else:
            node.replace_all_uses_with(None)  # type: ignore[arg-type]
            module.graph.erase_node(node)
    return names


def _check_batch(module: fx.GraphModule, names: list[str], given: Example) -> None:
    """Refuse a program that was exported for one batch size."""
    specs = {spec.name: spec for spec in given.inputs}
    for node, name in zip((n for n in module.graph.nodes if n.op == "placeholder"), names, strict=True):
        value = node.meta.get("val")
        for position, size in enumerate(specs[name].shape):
            if (
                isinstance(size, str)
                and isinstance(value, Tensor)
                and not isinstance(value.shape[position], torch.SymInt)
            ):
                raise CaptureError(
                    f"the program was exported with dimension {position} of {name} fixed at {value.shape[position]}",
                    where="model",
                    remedy=f"export it with dynamic_shapes, torch.export.Dim.DYNAMIC for dimension {position} ({size})",
                )


def _order_outputs(module: fx.GraphModule) -> None:
    """Put the program's outputs into the order in which leanly takes a structure apart."""
    output = module.graph.output_node()
    flat: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    leaves = [_Leaf(position) if isinstance(item, fx.Node) else item for position, item in enumerate(flat)]
    _, found = flatten(pytree.tree_unflatten(leaves, module._out_spec))  # type: ignore[arg-type]
    output.args = (tuple(flat[leaf.position] for leaf in found),)


def _sort_placeholders(graph: fx.Graph, names: list[str], wanted: list[str]) -> None:
    """Put the placeholders, which stand for the inputs of these names, into the order that is wanted."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    nodes = dict(zip(names, placeholders, strict=True))
    anchor = next(iter(graph.nodes))
    for name in wanted:
        if nodes[name] is not anchor:
            anchor.prepend(nodes[name])
        else:
            anchor = anchor.next


class _Leaf:
    """Stands for a tensor while structures are compared."""

    shape = dtype = None

    def __init__(self, position: int) -> None:
        self.position = position

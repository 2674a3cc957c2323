"""`capture`: from a trained module to a `Graph` that is shown to compute the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from leanly.errors import CaptureError
from leanly.graph import modes, tensors
from leanly.graph.cleaning import assemble, clean
from leanly.graph.comparing import compare, fits_training, mismatch
from leanly.graph.example import Example, read_example
from leanly.graph.explaining import first_line
from leanly.graph.exporting import Exported, Flat, export, run_once
from leanly.graph.graph import Graph
from leanly.graph.nodes import argument
from leanly.graph.outputs import output_specs
from leanly.graph.wrapping import GraphModule
from leanly.structure import Structure

AT_REST = "run the model once under torch.no_grad() before: what it keeps of its last run has gradients"


def capture(
    model: nn.Module | ExportedProgram | Graph,
    *,
    example: Any,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    static: tuple[str, ...] = (),
) -> Graph:
    """Turn a module into a graph of ATen operators with its own parameter names; the module is not changed.

    Args:
        model: the trained module; the graph comes out in its mode, training or evaluation. Of a graph, a copy
            comes out.
        example: a tensor, a tuple of positional inputs or a dict of keyword inputs, batch first.
        dynamic: dimensions besides the batch that vary, by input name: `{"input_ids": {1: "length"}}`.
        static: names of inputs whose dimension 0 is no batch.

    Raises:
        CaptureError: what can't be captured, with the user's line and the remedy.
    """
    if isinstance(model, ExportedProgram):
        from leanly.graph.programs import capture_program

        return capture_program(model, example=example, dynamic=dynamic, static=static)
    if isinstance(model, Graph):
        model = model.as_module()
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"the model is a {type(model).__name__}", where="model", remedy="give an nn.Module or an ExportedProgram"
        )
    given = read_example(model.forward, example, dynamic, static)
    check_weights(model, given)
    if isinstance(model, GraphModule):
        return _copy(model.graph, given)
    try:
        copied = copy.deepcopy(model, _computed(model))
    except Exception as error:
        raise CaptureError(f"the model can't be copied ({first_line(error)})", where="model", remedy=AT_REST) from error
    training = model.training
    flat = Flat(copied, given.arguments)
    modes_of = {module: module.training for module in copied.modules()}
    returns = _evaluated(flat, given)
    _restore(modes_of)
    if not training:
        copied.train()
    trained = {name: module.training for name, module in copied.named_modules()}
    graph, reason = _from_training(flat, given, returns)
    if graph is None:
        graph = _from_evaluation(flat, given, trained, reason)
    return graph.train(training)


def _copy(graph: Graph, given: Example) -> Graph:
    if given.arguments != graph.arguments:
        raise CaptureError(
            f"the example is {given.arguments}, the graph was captured with {graph.arguments}",
            where="example",
            remedy="give inputs in the structure of the first capture",
        )
    for held, asked in zip(graph.inputs, given.inputs, strict=True):
        if held.dtype != asked.dtype or not held.takes(asked.shape):
            raise CaptureError(
                f"the example's {held.name} is {asked.dtype} {list(asked.shape)}, and the graph takes {held.dtype} "
                f"{list(held.shape)}",
                where="example",
                remedy="give an example like that of the first capture; to let a dimension vary, capture the module "
                "again with dynamic=",
            )
    return graph.clone()


def _evaluated(flat: Flat, example: Example) -> Structure:
    """Run once in evaluation and return the structure of the outputs."""
    flat.eval()
    probe = copy.deepcopy(flat)
    run_once(probe, example)
    return probe.seen.structure


def _computed(model: nn.Module) -> dict[int, Any]:
    """Return copies of what modules keep of their last run, as the weights of weight norm, by their ids."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return {id(value): value.detach().clone() for value in kept if value.grad_fn is not None}


def _restore(modes_of: dict[nn.Module, bool]) -> None:
    for module, training in modes_of.items():
        module.training = training


def _from_training(flat: Flat, example: Example, returns: Structure) -> tuple[Graph | None, str]:
    """Capture as it trains; None and the reason where evaluation differs by more than flags."""
    flat.training = True
    try:
        exported = export(flat, example)
        if exported.returns != returns:
            return None, "the outputs in training have another structure than in evaluation"
        graph = _graph(exported, flat, example)
    except CaptureError as error:
        return None, f"training mode can't be captured: {error.what}"
    if modes.draws(graph.module):  # a comparison may miss it: a branch scaled by 1e-6 drowns in the tolerance
        return None, "training draws random numbers that no flag stops"
    told = compare(graph, copy.deepcopy(flat).eval(), example, training=False)
    if told:
        return None, f"the graph of training does not give the outputs of evaluation: {told}"
    if fits_training(graph):
        told = compare(graph, flat, example, training=True)
        if told:
            raise mismatch(told, "training")
    return graph, ""


def _from_evaluation(flat: Flat, example: Example, trained: dict[str, bool], reason: str) -> Graph:
    """Capture as it evaluates; batch norm and dropout train where their own module would."""
    flat.eval()
    exported = export(flat, example)
    graph = _graph(exported, flat, example)
    for node, name, _ in modes.switched(graph.module.graph):
        off = argument(node, name)
        training = trained.get(node.meta.get("path", ""), True)
        node.meta[modes.KEY] = (off if name == "dropout_p" else training, off)
    graph.notes = (*graph.notes, f"captured in evaluation mode, since {reason}")
    graph.eval()
    told = compare(graph, copy.deepcopy(flat).eval(), example, training=False)
    if told:
        raise mismatch(told, "evaluation")
    return graph


def _graph(exported: Exported, flat: Flat, example: Example) -> Graph:
    graph = clean(exported.module, [spec.name for spec in example.inputs], example.tensors)
    for node in graph.nodes:
        name = modes.flag_of(node)
        if name is not None:
            node.meta[modes.KEY] = (argument(node, name), modes.off_value(node, name))
    module = assemble(graph, exported.module, flat.model)
    return Graph(
        module,
        inputs=example.inputs,
        outputs=output_specs(module, exported.returns, example),
        arguments=example.arguments,
        returns=exported.returns,
        example=example.tensors,
        training=flat.training,
    )


def check_weights(model: nn.Module, example: Example) -> None:
    """Refuse NaN and infinite weights, and a model on another device than the example.

    Raises:
        CaptureError: names the tensor and its first bad index, or the two devices.
    """
    for name, tensor in tensors.every(model).items():
        for spec, given in zip(example.inputs, example.tensors, strict=True):
            if given.device != tensor.device:
                raise CaptureError(
                    f"the model's {name} is on {tensor.device}, the example's {spec.name} on {given.device}",
                    where=name,
                    remedy=f"move one of them: model.to({str(given.device)!r})",
                )
        if isinstance(tensor, nn.Parameter) or tensor.is_floating_point():
            bad = (~torch.isfinite(tensor.detach())).nonzero()
            if len(bad) and (isinstance(tensor, nn.Parameter) or bool(tensor.isnan().any())):
                index = tuple(bad[0].tolist())
                value = float(tensor.detach()[index])
                raise CaptureError(
                    f"{name} holds {value} at index {list(index)}, and {len(bad)} such values in all",
                    where=name,
                    remedy="train again from a checkpoint before it diverged",
                )

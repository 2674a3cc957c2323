"""From what the exporter gives to the graph's own form: no guards, no counters, no nested graphs, the user's names."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen
from torch.fx.node import map_arg

from leanly.errors import CaptureError
from leanly.graph import modes, tensors
from leanly.graph.explaining import line_of_node, line_of_trace, path_of, shortened
from leanly.graph.inplace import functional
from leanly.graph.nodes import reads_tensor

aten = torch.ops.aten

_ASSERTIONS = {
    "_assert_scalar",
    "_assert_tensor_metadata",
    "_assert_async",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_functional_assert_async",
    "_functional_assert_scalar",
}
_KEPT_META = ("source", "path", modes.KEY)


def clean(module: fx.GraphModule, names: list[str], example: tuple[Tensor, ...]) -> fx.Graph:
    """Rewrite the exporter's graph in place, in the order the steps need, and return it."""
    graph = module.graph
    _remove_guards(graph)
    _inline(module)
    _name_sources(graph)
    _remove_counters(graph)
    remove_dead(graph)
    functional(module, example)
    for node in graph.nodes:
        if node.target is aten.view.default:
            node.target = aten.reshape.default  # `view` fails on strides that a channels_last input or a cut can bring
        if node.target is aten.view_as.default:
            node.target = aten.reshape_as.default
        if node.target is aten.lift_fresh_copy.default:
            node.target = aten.clone.default
    _name_inputs(graph, names)
    _flatten_output(graph)
    remove_dead(graph)
    for node in graph.nodes:
        node.meta = {key: node.meta[key] for key in _KEPT_META if key in node.meta}
    graph.lint()
    return graph


def assemble(graph: fx.Graph, exported: fx.GraphModule, model: nn.Module, prefix: str = "model.") -> fx.GraphModule:
    """Make a module of the graph that holds the model's tensors under their own names, shared ones as one."""
    root = nn.Module()
    hidden = tensors.transient(model)
    known = tensors.every(model)
    for name in known:
        if hasattr(fx.GraphModule, name.split(".")[0]):
            raise CaptureError(
                f"the attribute {name.split('.')[0]!r} has a name that a graph needs itself",
                where=name,
                remedy="rename it",
            )
    order = [name for name in model.state_dict(keep_vars=True) if name in known]
    for name in (*order, *(name for name in known if name not in order)):
        tensors.put(root, name, known[name], persistent=name not in hidden)
    constants: dict[int, str] = {}
    for node in graph.nodes:
        if node.op != "get_attr":
            continue
        name = node.target.removeprefix(prefix)
        if name not in known:
            tensor = tensors.find(exported, node.target)
            if not isinstance(tensor, Tensor):
                raise CaptureError(
                    f"{name} is a {type(tensor).__name__}, not a tensor",
                    where=line_of_node(node),
                    remedy="make it a buffer",
                )
            if id(tensor) not in constants:
                name = name if not hasattr(fx.GraphModule, name.split(".")[0]) else f"constant_{name}"
                constants[id(tensor)] = name
                tensors.put(root, name, tensor.detach(), persistent=False)
            name = constants[id(tensor)]
        node.target = name
    _one_get_attr_each(graph)
    for node in graph.nodes:
        _select_by_constants(node, root)
    remove_dead(graph)
    return tensors.filled(fx.GraphModule(root, graph), root)


def _select_by_constants(node: fx.Node, root: nn.Module) -> None:
    """Call `x[:, order]` by its other name where the order is stored: rules know what that one reads."""
    if node.target is not aten.index.Tensor:
        return
    given = [(place, item) for place, item in enumerate(node.args[1]) if item is not None]  # type: ignore[arg-type]
    if len(given) != 1 or reads_tensor(node.args[0]):
        return
    ((dim, item),) = given
    while item.target in (aten.clone.default, aten.detach.default):  # a list written in `forward` is copied first
        item = item.args[0]
    if not reads_tensor(item):
        return
    order = tensors.find(root, str(item.target))
    if order.ndim == 1 and order.dtype == torch.int64 and bool((order >= 0).all()):
        node.target, node.args = aten.index_select.default, (node.args[0], dim, item)


def _remove_guards(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        name = getattr(getattr(node.target, "_schema", None), "name", "").partition("::")[2]
        if (node.op == "call_module" and str(node.target).startswith("_guards_fn")) or name in _ASSERTIONS:
            node.replace_all_uses_with(None)  # type: ignore[arg-type]
            graph.erase_node(node)


def _inline(module: fx.GraphModule) -> None:
    """Put the bodies of no-grad and autocast-off blocks in their place."""
    graph = module.graph
    found = True
    while found:
        found = False
        for node in list(graph.nodes):
            if not isinstance(node.target, torch._ops.HigherOrderOperator):
                continue
            name = node.target.name()
            if name == "wrap_with_set_grad_enabled":
                enabled, body, *inputs = node.args
                detach = not enabled
            elif name == "wrap_with_autocast" and not node.args[2]:
                body, inputs, detach = node.args[4], list(node.args[5:]), False
            else:
                raise CaptureError(
                    f"the model uses {name}, which has no plain operators",
                    where=_where_inside(module, node),
                    remedy="write it with torch.where, or move autocast, torch.cond and the like out of forward",
                )
            _replace_call(module, node, body, inputs, detach)  # type: ignore[arg-type]
            found = True


def _replace_call(module: fx.GraphModule, node: fx.Node, body: fx.Node, inputs: list[Any], detach: bool) -> None:
    graph = module.graph
    inner: fx.GraphModule = getattr(module, str(body.target))
    values: dict[fx.Node, Any] = {}
    placeholders = iter(inputs)
    result: Any = None
    with graph.inserting_before(node):
        for item in inner.graph.nodes:
            if item.op == "placeholder":
                values[item] = next(placeholders)
            elif item.op == "output":
                result = map_arg(item.args[0], lambda n: values[n])
            else:
                if item.op == "get_attr":
                    name = f"{body.target}_{item.target}".replace(".", "_")
                    setattr(module, name, getattr(inner, str(item.target)))
                    values[item] = graph.get_attr(name)
                    continue
                values[item] = graph.node_copy(item, lambda n: values[n])
        outputs = list(result) if isinstance(result, tuple | list) else [result]
        if detach:  # what a no-grad block computes carries no gradient
            outputs = [_detached(graph, output) for output in outputs]
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(outputs[user.args[1]])  # type: ignore[index]
            graph.erase_node(user)
    if node.users:
        node.replace_all_uses_with(outputs[0])
    graph.erase_node(node)
    if not body.users:
        graph.erase_node(body)


def _detached(graph: fx.Graph, value: Any) -> Any:
    if not isinstance(value, fx.Node) or not isinstance(value.meta.get("val"), Tensor):
        return value
    if not value.meta["val"].is_floating_point():
        return value
    result = graph.call_function(aten.detach.default, (value,))
    result.meta = dict(value.meta)
    return result


def _where_inside(module: fx.GraphModule, node: fx.Node) -> str:
    """Name the line of a block; the block itself often has none, its first node does."""
    found = line_of_trace(node.meta.get("stack_trace") or "")
    for item in node.args:
        body = getattr(module, str(item.target), None) if isinstance(item, fx.Node) and item.op == "get_attr" else None
        if not found and isinstance(body, fx.GraphModule):
            traces = (line_of_trace(inner.meta.get("stack_trace") or "") for inner in body.graph.nodes)
            found = next((trace for trace in traces if trace), "")
    return found or line_of_node(node)


def _name_sources(graph: fx.Graph) -> None:
    for node in graph.nodes:
        source, path = line_of_trace(node.meta.get("stack_trace") or ""), path_of(node)
        if source:
            node.meta["source"] = shortened(source)
        if path:
            node.meta["path"] = path


def _remove_counters(graph: fx.Graph) -> None:
    """Drop batch norm's count of batches: no output reads it."""
    for node in reversed(graph.nodes):  # a norm that is called again adds to what its earlier call gave
        if node.target is aten.add_.Tensor and isinstance(node.args[0], fx.Node):
            counter = node.args[0]
            while counter.target is aten.add_.Tensor:
                counter = counter.args[0]  # type: ignore[assignment]
            if counter.op == "get_attr" and str(counter.target).endswith("num_batches_tracked") and not node.users:
                graph.erase_node(node)


def _impure(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    schema = getattr(node.target, "_schema", None)
    return node.target in modes.STATISTICS or bool(schema is not None and schema.is_mutable)


def remove_dead(graph: fx.Graph) -> None:
    """Erase what no output, buffer or running statistic needs."""
    for node in reversed(graph.nodes):
        if not node.users and not _impure(node):
            graph.erase_node(node)


def _name_inputs(graph: fx.Graph, names: list[str]) -> None:
    """Name the placeholders after the inputs; another node that has the name gives way."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, name in zip(placeholders, names, strict=True):
        for other in graph.nodes:
            if other is not node and other.name == name:
                other._rename(f"{name}_node")
        node._rename(name)
        node.target = node.name  # "input" becomes "input_1": fx keeps Python's own names free


def _flatten_output(graph: fx.Graph) -> None:
    output = graph.output_node()
    flat: list[fx.Node] = []
    map_arg(output.args[0], lambda node: flat.append(node) or node)
    output.args = (tuple(flat),)
    graph.set_codegen(CodeGen())  # the exporter's own would take inputs and outputs apart


def _one_get_attr_each(graph: fx.Graph) -> None:
    """Read each tensor once, before everything else."""
    first: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            if node.target in first:
                node.replace_all_uses_with(first[node.target])
                graph.erase_node(node)
            else:
                first[node.target] = node
    top = next(node for node in graph.nodes if node.op != "get_attr")
    for node in first.values():
        top.prepend(node)
        node._rename(str(node.target).replace(".", "_"))

"""A graph as a folder: `graph.json` and tensors in safetensors; nothing pickled, the user's class not needed."""

from __future__ import annotations

import json
import keyword
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, fx, nn

from leanly.compact import ITEMS, Span
from leanly.errors import BundleError, LeanlyError, RunError
from leanly.files import digest, read_json, replacing_folder, sha256, write_json
from leanly.graph import modes, tensors
from leanly.graph.encoding import decode, encode, name_of, target_named
from leanly.graph.nodes import argument_names
from leanly.structure import Structure, TensorSpec

if TYPE_CHECKING:
    from leanly.graph.graph import Graph

FORMAT = 1
DESCRIPTION, WEIGHTS, EXAMPLE = "graph.json", "weights.safetensors", "example.safetensors"
_PART = re.compile(r"[^\"'\\\s.{}()]+")
"""A part of a tensor's name; it becomes Python source, so it may hold nothing that ends a string."""
_AGAIN = "copy the folder again, or save the graph again"


def describe(graph: Graph, *, sources: bool = True) -> dict[str, Any]:
    """Return everything but the weights as JSON; flags are those of evaluation.

    Raises:
        LeanlyError: the graph holds an operator or an argument that can't be written down.
    """
    every = tensors.every(graph.module)
    hidden = tensors.transient(graph.module)
    try:
        nodes = [_described(node, sources) for node in graph.module.graph.nodes]
        kept = {name: _encode_kept(value) for name, value in graph.kept.items()}
    except TypeError as error:
        raise LeanlyError(
            f"the graph can't be saved: {error}", where="graph", remedy="report the pass that made it"
        ) from error
    return {
        "nodes": nodes,
        "inputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in graph.inputs],
        "outputs": [[spec.name, spec.dtype, list(spec.shape)] for spec in graph.outputs],
        "arguments": graph.arguments,
        "returns": graph.returns,
        "tensors": {
            name: {
                "dtype": tensors.dtype_name(tensor),
                "shape": list(tensor.shape),
                "parameter": isinstance(tensor, nn.Parameter),
                "persistent": name not in hidden,
                "grad": tensor.requires_grad,
            }
            for name, tensor in every.items()
        },
        "shared": tensors.shared(every),
        "kept": kept,
    }


def save(graph: Graph, folder: Path) -> None:
    """Write a graph into a folder, which is there whole or not at all.

    Raises:
        RunError: the folder can't be written, or holds something else than a graph.
    """
    content = {"format": FORMAT, **describe(graph), "training": graph.training, "notes": list(graph.notes)}
    every = tensors.every(graph.module)
    doubles = {name for _, *others in content["shared"] for name in others}
    weights = {name: _plain(tensor) for name, tensor in every.items() if name not in doubles}
    example = {str(position): _plain(tensor) for position, tensor in enumerate(graph.example)}
    try:
        with replacing_folder(folder, DESCRIPTION, "a graph") as temporary:
            content["files"] = {}
            for name, group in ((WEIGHTS, weights), (EXAMPLE, example)):
                safetensors.torch.save_file(group, temporary / name)
                (temporary / name).chmod(0o644)
                content["files"][name] = sha256(temporary / name)
            content["digest"] = digest(content)
            write_json(temporary / DESCRIPTION, content)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"the graph can't be written ({error})", where=str(folder), remedy="free space or name another folder"
        ) from error


def open_graph(folder: Path) -> Graph:
    """Read a graph from a folder; every file is checked against its hash before it is used."""
    from leanly.graph.graph import Graph

    path = folder / DESCRIPTION
    content = read_json(path)
    _check_description(content, path)
    loaded = {name: _load(folder / name, content["files"].get(name)) for name in (WEIGHTS, EXAMPLE)}
    try:
        module = _module(content, loaded[WEIGHTS], path)
        inputs, outputs = (_specs(content[key]) for key in ("inputs", "outputs"))
        example = tuple(loaded[EXAMPLE][str(position)] for position in range(len(inputs)))
        if len(module.graph.output_node().args[0]) != len(outputs):  # type: ignore[arg-type]
            raise ValueError("the outputs are not those declared")
        _check_structure(content["arguments"], len(inputs))
        _check_structure(content["returns"], len(outputs))
        return Graph(
            module,
            inputs=inputs,
            outputs=outputs,
            arguments=content["arguments"],
            returns=content["returns"],
            example=example,
            training=content["training"],
            kept={name: _decode_kept(value) for name, value in content["kept"].items()},
            notes=tuple(content["notes"]),
        )
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise BundleError(
            f"the description of the graph is damaged ({error!r})", where=str(path), remedy=_AGAIN
        ) from error


def spans(content: bytes) -> list[Span]:
    """Return where the tensors lie in a safetensors file, each as a matrix with a row for each output."""
    start = 8 + int.from_bytes(content[:8], "little")
    found = []
    for entry in json.loads(content[8:start]).values():
        first, stop = entry["data_offsets"]
        count, rows = math.prod(entry["shape"]), [*entry["shape"], 1][0]
        if count and (stop - first) // count in ITEMS:
            found.append(Span(start + first, (stop - first) // count, rows, count // rows))
    return sorted(found, key=lambda span: span.offset)


def _check_description(content: Any, path: Path) -> None:
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise BundleError("the file describes no graph", where=str(path), remedy=_AGAIN)
    if content["format"] > FORMAT:
        raise BundleError(
            f"the graph has format {content['format']}, this leanly reads up to {FORMAT}",
            where=str(path),
            remedy="install a newer leanly",
        )
    told = content.pop("digest", None)
    if told != digest(content):
        raise BundleError("the file was altered after it was written", where=str(path), remedy=_AGAIN)
    if not isinstance(content.get("files"), dict):
        raise BundleError("the file lists no tensors", where=str(path), remedy=_AGAIN)


def _load(path: Path, told: str | None) -> dict[str, Tensor]:
    if not path.is_file():
        raise BundleError("a file is missing", where=str(path), remedy="copy the folder again, whole")
    if sha256(path) != told:
        raise BundleError("the file is torn or was altered after it was written", where=str(path), remedy=_AGAIN)
    try:
        # copies: the file may go, and kernels are chosen by the alignment that the allocator gives
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"the file holds no tensors ({error})", where=str(path), remedy=_AGAIN) from error


def _module(content: dict[str, Any], weights: dict[str, Tensor], path: Path) -> fx.GraphModule:
    root = _tensors(content, weights, path)
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for entry in content["nodes"]:
        name, op = entry["name"], entry["op"]
        if not _plain_name(name) or name in nodes:
            raise ValueError(f"{name!r} is no name for a node")
        args, kwargs = (
            decode(entry["args"], nodes),
            {key: decode(value, nodes) for key, value in entry["kwargs"].items()},
        )
        if not all(map(_plain_name, kwargs)):
            raise ValueError(f"node {name} has an argument without a plain name")
        target = entry["target"]
        if op == "call_function":
            target = target_named(target, str(path))
        elif op == "placeholder":
            if target != name or args or kwargs:
                raise ValueError(f"input {name} has another name inside")
        elif op == "get_attr":
            if target not in content["tensors"]:
                raise ValueError(f"node {name} reads {target!r}, which is not among the tensors")
        elif op != "output" or entry is not content["nodes"][-1]:
            raise ValueError(f"{op!r} is no kind of node")
        node = graph.create_node(op, target, tuple(args), kwargs, name)
        if op != "output" and node.name != name:
            raise ValueError(f"{name!r} can't name a node")
        for key in ("source", "path"):
            if entry.get(key):
                node.meta[key] = str(entry[key])
        if entry.get("modes") is not None:
            node.meta[modes.KEY] = tuple(entry["modes"])
        nodes[name] = node
    if len([node for node in graph.nodes if node.op == "placeholder"]) != len(content["inputs"]):
        raise ValueError("the inputs are not those declared")
    if not nodes or content["nodes"][-1]["op"] != "output":
        raise ValueError("the graph has no output")
    graph.lint()
    return tensors.filled(fx.GraphModule(root, graph), root)


def _tensors(content: dict[str, Any], weights: dict[str, Tensor], path: Path) -> nn.Module:
    """Put the tensors under their names, after checking that they are the ones declared."""
    where = str(path.parent / WEIGHTS)
    first = {name: names[0] for names in content["shared"] for name in names}
    wanted = {first.get(name, name) for name in content["tensors"]}
    for told, names in (("missing", wanted - set(weights)), ("not declared", set(weights) - wanted)):
        if names:
            raise BundleError(f"tensors are {told}: {', '.join(sorted(names)[:5])}", where=where, remedy=_AGAIN)
    root = nn.Module()
    made: dict[str, Tensor] = {}
    for name, entry in content["tensors"].items():
        if not all(_PART.fullmatch(part) for part in name.split(".")) or hasattr(fx.GraphModule, name.split(".")[0]):
            raise BundleError(f"{name!r} can't name a tensor", where=str(path), remedy=_AGAIN)
        tensor = weights[first.get(name, name)]
        found, declared = (tensors.dtype_name(tensor), list(tensor.shape)), (entry["dtype"], entry["shape"])
        if found != declared:
            raise BundleError(f"{name} is {found}, declared is {declared}", where=where, remedy=_AGAIN)
        key = first.get(name, name)
        if key not in made:
            made[key] = nn.Parameter(tensor, requires_grad=bool(entry["grad"])) if entry["parameter"] else tensor
        tensors.put(root, name, made[key], persistent=bool(entry["persistent"]))
    return root


def _described(node: fx.Node, sources: bool) -> dict[str, Any]:
    """Write a node down with its flag as in evaluation."""
    args, kwargs = list(node.args), dict(node.kwargs)
    flag = modes.flag_of(node)
    if flag is not None and modes.KEY in node.meta:
        value = node.meta[modes.KEY][1]
        names = argument_names(node)
        if flag in kwargs:
            kwargs[flag] = value
        elif names.index(flag) < len(args):
            args[names.index(flag)] = value
    entry: dict[str, Any] = {
        "name": node.name,
        "op": node.op,
        "target": name_of(node.target) if node.op == "call_function" else str(node.target),
        "args": [encode(item) for item in args],
        "kwargs": {key: encode(item) for key, item in kwargs.items()},
        "modes": list(node.meta[modes.KEY]) if modes.KEY in node.meta else None,
    }
    if sources:
        entry.update({key: node.meta[key] for key in ("source", "path") if key in node.meta})
    return entry


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _plain_name(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)


def _specs(entries: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in entries)


def _check_structure(structure: Structure, leaves: int) -> None:
    found: list[int] = []

    def walk(item: Any) -> None:
        if isinstance(item, int) and not isinstance(item, bool):
            found.append(item)
            return
        if not isinstance(item, dict) or len(item) != 1:
            raise ValueError(f"{item!r} is no structure")
        ((kind, content),) = item.items()
        if kind not in ("tuple", "list", "dict", "constant"):
            raise ValueError(f"{kind!r} is no structure")
        for entry in content.values() if kind == "dict" else content if kind in ("tuple", "list") else ():
            walk(entry)

    walk(structure)
    if sorted(set(found)) != list(range(leaves)):
        raise ValueError("a structure does not fit the tensors")


def _encode_kept(value: Any) -> Any:
    if value is None:
        return None
    return [None if item is None else torch.as_tensor(item).tolist() for item in value]


def _decode_kept(value: Any) -> Any:
    if value is None:
        return None
    return tuple(None if item is None else torch.tensor(item, dtype=torch.int64) for item in value)

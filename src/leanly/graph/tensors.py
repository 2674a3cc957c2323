"""Tensors in a module by their dotted names, with those that are one tensor under two names kept one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn


def find(module: nn.Module, name: str) -> Tensor:
    """Return the tensor at a dotted name."""
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def owner_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the submodule that holds a dotted name (made where absent) and the last part of the name."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    return module, leaf


def put(module: nn.Module, name: str, tensor: Tensor, *, persistent: bool = True) -> None:
    """Put a tensor at a dotted name: a Parameter as a parameter, anything else as a buffer."""
    owner, leaf = owner_of(module, name)
    owner._parameters.pop(leaf, None)
    owner._buffers.pop(leaf, None)
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor, persistent=persistent)


def free_name(module: nn.Module, name: str) -> str:
    """Return a dotted name at which nothing lies yet: this one, or the same with underscores behind it."""
    owner, leaf = owner_of(module, name)
    while hasattr(owner, leaf):
        name, leaf = f"{name}_", f"{leaf}_"
    return name


def filled(module: fx.GraphModule, root: nn.Module) -> fx.GraphModule:
    """Give a module the tensors of `root` in their order, also those that no node reads (the state dict has them)."""
    module._modules.clear()
    module._parameters.clear()
    module._buffers.clear()
    module._non_persistent_buffers_set.clear()
    hidden = transient(root)
    order = [*root.state_dict(keep_vars=True), *every(root)]
    for name in dict.fromkeys(order):
        put(module, name, find(root, name), persistent=name not in hidden)
    return module


def every(module: nn.Module) -> dict[str, Tensor]:
    """List all parameters and buffers under all their names, shared ones more than once."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def transient(module: nn.Module) -> set[str]:
    """Name the buffers that are no part of the state dict."""
    return {
        f"{path}.{leaf}" if path else leaf
        for path, child in module.named_modules(remove_duplicate=False)
        for leaf in child._non_persistent_buffers_set
    }


def names_by_tensor(tensors: dict[str, Tensor]) -> dict[int, list[str]]:
    """Return all names of each tensor, by its id."""
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), []).append(name)
    return groups


def shared(tensors: dict[str, Tensor]) -> list[list[str]]:
    """Group the names that are one and the same tensor."""
    return [names for names in names_by_tensor(tensors).values() if len(names) > 1]


def tie(module: nn.Module, groups: Iterable[list[str]]) -> None:
    """Make the tensors of each group one again."""
    for first, *others in groups:
        tensor = find(module, first)
        hidden = transient(module)
        for name in others:
            put(module, name, tensor, persistent=name not in hidden)


def dtype_name(tensor: Tensor) -> str:
    """Return the dtype as "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """Return the dtype that "float32" names; ValueError where there is none."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return dtype


def read_attr(module: fx.GraphModule, name: str) -> fx.Node:
    """Return a new node, at the graph's insertion point, that reads a tensor."""
    return module.graph.create_node("get_attr", name, (), {}, name.replace(".", "_"))


def drop_unread(module: fx.GraphModule) -> None:
    """Remove the parameters and buffers that no node reads."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name in every(module).keys() - read:
        drop(module, name)


def drop(module: nn.Module, name: str) -> None:
    """Remove the tensor at a dotted name."""
    owner, _, leaf = name.rpartition(".")
    delattr(module.get_submodule(owner), leaf)

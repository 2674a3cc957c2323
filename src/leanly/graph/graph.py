"""Graph: the captured model; callable, trainable, and independent of the user's class."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from leanly.errors import DataError, SettingError
from leanly.graph import modes, tensors
from leanly.structure import Structure, TensorSpec, build, flatten

if TYPE_CHECKING:
    from leanly.graph.cost import Cost


class Graph:
    """A model as ATen operators, with the parameters under the names they have in the user's module.

    Args:
        module: placeholders are the flat inputs in order, `get_attr` nodes name parameters and buffers, the output is a
            tuple of tensors.
        inputs, outputs: the flat tensors; a str in a shape is a dimension that varies.
        arguments: structure of `(args, kwargs)`; `returns`: structure of what a call gives back.
        example: flat example inputs, a few rows.
        training: the mode the flags of `module` are in.
        kept: per parameter, the indices of the first capture that remain along each dimension (None: all).
        notes: what a person should know of how it was captured.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        arguments: Structure,
        returns: Structure,
        example: tuple[Tensor, ...],
        training: bool = False,
        kept: dict[str, Any] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.module = module
        self.inputs, self.outputs = inputs, outputs
        self.arguments, self.returns = arguments, returns
        self.example = example
        self.kept = dict(kept or {})
        self.notes = notes
        self.training = training
        self.train(training)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run on inputs in the structure of the example; give the model's own output structure back."""
        found, leaves = flatten((args, kwargs))
        if not _same(found, self.arguments):
            ordered = _reordered(found, self.arguments, leaves)
            if ordered is None:
                names = ", ".join(spec.name for spec in self.inputs)
                raise DataError(
                    f"the inputs are {_told(found)}, the model was captured with {_told(self.arguments)}",
                    where=f"inputs {names}",
                    remedy="call it the way the example did",
                )
            leaves = ordered
        return build(self.returns, self.flat(*leaves))

    def flat(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """Run on flat tensors in the order of `inputs`; give flat tensors in the order of `outputs`."""
        return self.module(*leaves)

    def example_batch(self, size: int) -> tuple[Tensor, ...]:
        """Return the example with `size` rows: its own rows, cycled."""
        return tuple(
            torch.index_select(tensor, 0, torch.arange(size, device=tensor.device) % tensor.shape[0])
            if spec.shape and spec.shape[0] == "batch"
            else tensor
            for spec, tensor in zip(self.inputs, self.example, strict=True)
        )

    def train(self, mode: bool = True) -> Graph:
        """Switch batch norm, dropout and their kin to training; return the graph itself."""
        modes.switch(self.module, mode)
        self.module.training = self.training = mode
        return self

    def eval(self) -> Graph:
        """Switch batch norm, dropout and their kin to evaluation; return the graph itself."""
        return self.train(False)

    def to(self, device: str | torch.device) -> Graph:
        """Move parameters, buffers, the example and what nodes make to a device; return the graph itself."""
        device = torch.device(device)
        groups = tensors.shared(tensors.every(self.module))
        self.module.to(device)
        tensors.tie(self.module, groups)
        self.example = tuple(tensor.to(device) for tensor in self.example)

        def there(item: Any) -> Any:
            return device if isinstance(item, torch.device) else item

        for node in self.module.graph.nodes:
            node.args, node.kwargs = map_aggregate(node.args, there), map_aggregate(node.kwargs, there)  # type: ignore[assignment]
        self.module.recompile()
        return self

    @property
    def device(self) -> torch.device:
        """Where the graph computes."""
        first = next(iter(tensors.every(self.module).values()), None)
        return first.device if first is not None else self.example[0].device

    def as_module(self) -> nn.Module:
        """Return a module that runs this graph, for whatever takes one; `capture` gives a copy of the graph back."""
        from leanly.graph.wrapping import GraphModule

        return GraphModule(self)

    def clone(self) -> Graph:
        """Return a graph that shares nothing with this one; parameters shared inside stay shared."""
        return Graph(
            copy.deepcopy(self.module),
            inputs=self.inputs,
            outputs=self.outputs,
            arguments=copy.deepcopy(self.arguments),
            returns=copy.deepcopy(self.returns),
            example=tuple(tensor.clone() for tensor in self.example),
            training=self.training,
            kept=copy.deepcopy(self.kept),
            notes=self.notes,
        )

    def without_rows(self) -> Graph:
        """Return a clone whose example holds none of the user's rows: noise of the same mean and spread, or range."""
        clone = self.clone()
        # not 0: rows that were drawn from that seed would be drawn again
        generator = torch.Generator().manual_seed(0xA41E5500)
        clone.example = tuple(_noise_like(tensor, generator) for tensor in self.example)
        return clone

    def parameters(self) -> Iterator[nn.Parameter]:
        """Iterate over the parameters, a shared one once."""
        return self.module.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over names and parameters, a shared one once."""
        return self.module.named_parameters()

    def buffers(self) -> Iterator[Tensor]:
        """Iterate over the buffers."""
        return self.module.buffers()

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the user's own module can load, as long as no pass has cut it."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the state dict of the user's module or of a graph with the same shapes."""
        self.module.load_state_dict(state)

    def source(self, node: fx.Node) -> str:
        """Name the user's source line of a node: "path:12: code"; the submodule's path where there is no line."""
        return node.meta.get("source") or node.meta.get("path") or node.name

    def shapes(self, batch_size: int = 1) -> dict[str, tuple[int, ...]]:
        """Return the shape of every node that is one tensor, for a batch size."""
        from leanly.graph.shapes import shapes

        return shapes(self, batch_size)

    def cost(self, batch_size: int = 1) -> Cost:
        """Count MACs, parameters and bytes, by node and in all."""
        from leanly.graph.cost import cost

        return cost(self, batch_size)

    def fingerprint(self) -> str:
        """Return a SHA-256 over the operators, structures and weights; the mode and source lines do not count."""
        from leanly.files import canonical_json
        from leanly.graph.saving import describe

        content = describe(self, sources=False)
        digest = hashlib.sha256(canonical_json(content))
        for name, tensor in sorted(tensors.every(self.module).items()):
            digest.update(name.encode())
            data = tensor.detach().cpu().contiguous()
            digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b"")
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write `graph.json` and `weights.safetensors` into a folder, whole or not at all; nothing is pickled."""
        from leanly.graph.saving import save

        save(self, Path(folder))

    @staticmethod
    def open(folder: str | Path) -> Graph:
        """Read what `save` wrote; the user's class is not needed.

        Raises:
            BundleError: a file is missing, torn, altered, newer, or asks for an operator that a graph may not hold.
            SettingError: something else than a path was given.
        """
        if not isinstance(folder, str | Path):
            raise SettingError(
                f"the folder is {folder!r}",
                where="Graph.open",
                remedy="give the path of what Graph.save wrote",
            )
        from leanly.graph.saving import open_graph

        return open_graph(Path(folder))


def _noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.is_floating_point():
        noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std(correction=0).cpu()
        return (noise + tensor.float().mean().cpu()).to(tensor)
    low, high = int(tensor.min()), int(tensor.max())
    return torch.randint(low, high + 1, tensor.shape, generator=generator).to(tensor)


def _same(found: Structure, wanted: Structure) -> bool:
    if isinstance(found, int) or isinstance(wanted, int):
        return found == wanted
    (kind, content), (other, expected) = next(iter(found.items())), next(iter(wanted.items()))
    if kind == "constant" or other == "constant":
        return kind == other and content == expected
    if kind == "dict" or other == "dict":
        return (
            kind == other and list(content) == list(expected) and all(_same(content[k], expected[k]) for k in content)
        )
    return len(content) == len(expected) and all(map(_same, content, expected))


def _reordered(found: Structure, wanted: Structure, leaves: list[Any]) -> list[Any] | None:
    """Return the leaves in the wanted order where the two structures differ in the order of dict keys only."""
    order: dict[int, int] = {}

    def walk(one: Structure, other: Structure) -> bool:
        if isinstance(one, int) and isinstance(other, int):
            order[other] = one
            return True
        if isinstance(one, int) or isinstance(other, int):
            return False
        (kind, content), (wanted_kind, expected) = next(iter(one.items())), next(iter(other.items()))
        if kind == "dict" and wanted_kind == "dict":
            return set(content) == set(expected) and all(walk(content[key], expected[key]) for key in expected)
        if "constant" in (kind, wanted_kind) or "dict" in (kind, wanted_kind):
            return kind == wanted_kind and content == expected
        return len(content) == len(expected) and all(map(walk, content, expected))

    if not walk(found, wanted):
        return None
    return [leaves[order[position]] for position in range(len(leaves))]


def _told(structure: Structure) -> str:
    if isinstance(structure, int):
        return "tensor"
    kind, content = next(iter(structure.items()))
    if kind == "dict":
        return "{" + ", ".join(f"{key}: {_told(entry)}" for key, entry in content.items()) + "}"
    if kind == "constant":
        return repr(content)
    return "(" + ", ".join(map(_told, content)) + ")"

"""Arguments: how the inputs of a row or a batch become the arguments of the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from leanly.errors import DataError
from leanly.structure import Structure, TensorSpec, build, flatten


class Arguments:
    """The model's arguments as the example shows them: a tensor or a tuple by position, a dict by keyword.

    Constants (None, numbers) and inputs named static are no rows: every batch takes them from the example.

    Args:
        model: nn.Module or ExportedProgram, whose `forward` names the inputs.
        example: one tensor, a tuple or a dict of them.
        static: names of the inputs that carry no batch in dimension 0.

    Raises:
        DataError: an example of another kind, without a tensor, or whose inputs disagree about the batch.
    """

    def __init__(self, model: Any, example: Any, static: Iterable[str] = ()) -> None:
        args, kwargs = as_call(example)
        try:
            self.structure, leaves = flatten((args, kwargs))
        except TypeError as error:
            raise DataError(
                str(error), where="Task.example", remedy="give a tensor, a tuple of tensors or a dict name -> tensor"
            ) from error
        self.tensors = [torch.as_tensor(leaf) for leaf in leaves]
        self.names = leaf_names(self.structure, _parameter_names(model, len(args)))
        self.static = frozenset(static)
        self.keywords = tuple(kwargs)
        self._batched = [index for index, name in enumerate(self.names) if name not in self.static]
        self._check(static)

    def _check(self, static: Iterable[str]) -> None:
        known = ", ".join(self.names)
        for name in static:
            if name not in self.names:
                raise DataError(
                    f"static names {name!r}, which is no input", where="Task.static", remedy=f"inputs: {known}"
                )
        if not self._batched:
            raise DataError(
                "the example holds no tensor that carries a batch",
                where="Task.example",
                remedy="give a tensor, a tuple of tensors or a dict name -> tensor, batch first",
            )
        rows = {self.names[index]: self.tensors[index].shape[:1] for index in self._batched}
        for name, shape in rows.items():
            if not shape or shape[0] == 0:
                raise DataError(
                    f"input {name!r} of the example has no rows",
                    where="Task.example",
                    remedy=f"give at least one row, or name it in static=({name!r},) where it carries no batch",
                )
        if len(set(rows.values())) > 1:
            told = ", ".join(f"{name!r} has {shape[0]}" for name, shape in rows.items())
            raise DataError(
                f"the inputs of the example have different numbers of rows: {told}",
                where="Task.example",
                remedy="give each the same rows, batch first; name those that carry no batch in static=",
            )

    @property
    def batched(self) -> list[tuple[str, torch.Tensor]]:
        """Names and example tensors of the inputs that carry rows, in order."""
        return [(self.names[index], self.tensors[index]) for index in self._batched]

    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the example as arguments."""
        return build(self.structure, self.tensors)

    def rows(self, inputs: Any, where: str) -> list[Any]:
        """Return the leaves of `inputs` (a tensor, a tuple or a dict) that carry rows, in the example's order.

        Raises:
            DataError: they are not what the example holds; it says which are missing and which are too many.
        """
        wanted = [self.names[index] for index in self._batched]
        if isinstance(inputs, Mapping) != bool(self.keywords):
            kind = "a dict with" if self.keywords else "a tensor or tuple of"
            raise DataError(
                f"the inputs are given {'by name' if isinstance(inputs, Mapping) else 'by position'}, those of the "
                f"example {'by name' if self.keywords else 'by position'}",
                where=where,
                remedy=f"give both alike: {kind} {', '.join(wanted)}",
            )
        if isinstance(inputs, Mapping):
            inputs = self._sorted(inputs, where)
        try:
            given = flatten(as_call(inputs))[1]
        except TypeError as error:
            raise DataError(f"in the inputs, {error}", where=where, remedy="give tensors or numpy arrays") from error
        if len(given) == len(self.names) != len(wanted):
            given = [given[index] for index in self._batched]  # the static ones are given too, and not read
        if len(given) != len(wanted):
            raise DataError(
                f"a row holds {len(given)} inputs, the model takes {len(wanted)} ({', '.join(wanted)})",
                where=where,
                remedy="give the inputs of the example, in its order",
            )
        return given

    def _sorted(self, inputs: Mapping[str, Any], where: str) -> dict[str, Any]:
        static = {name for name in self.keywords if name in self.static}
        constants = {key for key in self.keywords if not flatten(self.call()[1][key])[1]}
        missing = [key for key in self.keywords if key not in inputs and key not in static | constants]
        extra = [key for key in inputs if key not in self.keywords]
        if missing or extra:
            parts = [
                f"{word} {', '.join(map(repr, keys))}" for word, keys in (("lack", missing), ("add", extra)) if keys
            ]
            raise DataError(
                f"compared with the example, the inputs {' and '.join(parts)}",
                where=where,
                remedy="give the names of the example; put an input that the model should get into the example",
            )
        return {key: inputs[key] for key in self.keywords if key in inputs and key not in static | constants}

    def complete(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return all flat tensors of a call: the given ones, and the static ones of the example."""
        tensors = list(self.tensors)
        for index, tensor in zip(self._batched, rows, strict=True):
            tensors[index] = tensor
        return tensors

    def check_order(self, specs: Iterable[TensorSpec], where: str) -> None:
        """Raise a DataError where something takes these inputs in another order than they are given.

        Args:
            specs: the inputs of a graph or an artifact.
            where: for the message.
        """
        taken = [spec.name for spec in specs]
        if taken != list(self.names) and sorted(taken) == sorted(self.names):
            raise DataError(
                f"rows give {', '.join(self.names)} and the graph takes {', '.join(taken)}: another order",
                where=where,
                remedy="capture with Task.example, or write the example in the order of the capture",
            )

    def bind(self, tensors: list[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return flat tensors as arguments `(args, kwargs)`."""
        return build(self.structure, tensors)


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs as `(args, kwargs)`: a tensor or a tuple by position, a dict by keyword."""
    if isinstance(inputs, Mapping):
        return (), {str(key): value for key, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def _parameter_names(model: Any, count: int) -> list[str]:
    """Names of the first positional parameters of `forward`; "input_0" and so on where they have none."""
    if hasattr(model, "graph_signature"):  # ExportedProgram
        names = [str(name) for name in model.graph_signature.user_inputs]
        if len(names) == count:
            return names
        return positional_names(None, count)
    return positional_names(getattr(model, "forward", None), count)


def positional_names(forward: Any, count: int) -> list[str]:
    """Names of the first positional parameters of a function; "input_0" and so on where it has none."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return [*named, *(f"input_{index}" for index in range(len(named), count))]


def leaf_names(structure: Structure, positional: list[str]) -> list[str]:
    """Name each tensor of `(args, kwargs)`: the parameter, with keys and positions below it ("states_0")."""
    names: dict[int, str] = {}

    def walk(entry: Any, name: str) -> None:
        if isinstance(entry, int):
            names[entry] = name
            return
        kind, content = next(iter(entry.items()))
        if kind == "dict":
            for key, value in content.items():
                walk(value, f"{name}_{key}" if name else key)
        elif kind in ("tuple", "list"):
            for index, value in enumerate(content):
                walk(value, f"{name}_{index}")

    args, kwargs = structure["tuple"]
    for index, entry in enumerate(args["tuple"]):
        walk(entry, positional[index])
    walk(kwargs, "")
    return [names[index] for index in range(len(names))]

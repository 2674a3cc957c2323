"""Checkpoints: a run that was killed goes on from the last one to the very same weights.

A checkpoint is a file of tensors and `checkpoint.json`, which names that file and its hash and is replaced last:
whenever the process dies, the JSON names a file that is whole.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer

from leanly.errors import BundleError, RunError
from leanly.files import make_folder, read_json, replacing, sha256, write_json
from leanly.graph import Graph
from leanly.graph.tensors import every, names_by_tensor

SECONDS = 30.0
"""Least time between two checkpoints of one epoch."""
INDEX = "checkpoint.json"
FILES = ("first.safetensors", "second.safetensors")
"""Written in turns: the one that the JSON names is never touched."""


class Checkpoints:
    """A folder that holds the last checkpoint of one run.

    Args:
        folder: where; made when the first one is written.
        key: hash of everything that the run's weights follow from.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.folder, self._key = Path(folder), key
        self._saved = time.monotonic()
        self._current = ""

    @property
    def held(self) -> bool:
        """Whether the folder holds a checkpoint of this run, read or written by this object."""
        return bool(self._current)

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for a new one."""
        return time.monotonic() - self._saved >= SECONDS

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return what the last checkpoint says and its tensors; None where there is none.

        Raises:
            RunError: the folder holds another run.
            BundleError: the checkpoint is damaged.
        """
        path = self.folder / INDEX
        if not path.exists():
            return None
        index = read_json(path)
        if not isinstance(index, dict) or not {"key", "file", "sha256", "state"} <= set(index):
            raise BundleError("the file describes no checkpoint", where=str(path), remedy="delete the folder")
        if index["key"] != self._key:
            raise RunError(
                "the folder holds the checkpoint of another run: other weights, data, settings or length",
                where=str(self.folder),
                remedy="name another folder, or delete this one",
            )
        file = self.folder / str(index["file"])
        if index["file"] not in FILES or not file.exists() or sha256(file) != index["sha256"]:
            raise BundleError("a checkpoint is damaged", where=str(file), remedy="delete the folder and train again")
        self._current = file.name
        # copies: kernels are chosen by the alignment that the allocator gives
        return index["state"], {name: tensor.clone() for name, tensor in safetensors.torch.load_file(file).items()}

    def write(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint, whole or not at all, and delete the one before.

        Raises:
            RunError: the folder can't be written.
        """
        make_folder(self.folder)
        file = self.folder / next(name for name in FILES if name != self._current)
        try:
            with replacing(file) as temporary:
                safetensors.torch.save_file({name: _plain(tensor) for name, tensor in tensors.items()}, temporary)
            write_json(
                self.folder / INDEX, {"key": self._key, "file": file.name, "sha256": sha256(file), "state": state}
            )
            if self._current:
                (self.folder / self._current).unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"a checkpoint can't be written ({error})",
                where=str(self.folder),
                remedy="free space or name another folder",
            ) from error
        self._current, self._saved = file.name, time.monotonic()


def snapshot(graph: Graph) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers, a shared one under its first name."""
    return {name: tensor.detach().clone() for name, tensor in _own(graph.module).items()}


def restore(graph: Graph, tensors: dict[str, Tensor]) -> None:
    """Put the values of a snapshot into the graph's own tensors."""
    for name, tensor in _own(graph.module).items():
        tensor.detach().copy_(tensors[name])


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimizer, named by the parameter's position and its own word for it."""
    return {
        f"{position}.{word}": value
        for position, parameter in enumerate(_parameters(optimizer))
        for word, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put what `optimizer_tensors` gave back."""
    parameters = _parameters(optimizer)
    for name, tensor in tensors.items():
        position, _, word = name.partition(".")
        parameter = parameters[int(position)]
        # a count of steps stays where the optimizer put it
        optimizer.state[parameter][word] = tensor.to(parameter.device) if tensor.ndim else tensor


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _own(module: nn.Module) -> dict[str, Tensor]:
    found = every(module)
    return {names[0]: found[names[0]] for names in names_by_tensor(found).values()}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()

"""Pass and Recipe: what is done to a graph, as data."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from leanly.errors import SettingError

if TYPE_CHECKING:
    from leanly.graph import Graph
    from leanly.target import Target
    from leanly.task import Task

ROOMS = ("quantize", "prune", "distill", "training")
OWN = "own"
"""Marks a setting that is a function or module of the user's own: such a recipe can be told, not read back."""


class Pass(Protocol):
    """Frozen settings and one method; it never changes its input."""

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph: ...


@dataclass(frozen=True)
class Recipe:
    """An ordered tuple of passes; empty is the unmodified model."""

    passes: tuple[Pass, ...] = ()

    @property
    def portable(self) -> bool:
        """Whether `from_json` can read it back: no setting is a function or module of the user's own."""
        return not any(isinstance(value, dict) and OWN in value for step in self.to_json() for value in step.values())

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Apply the passes in order."""
        for step in self.passes:
            graph = step(graph, task, target)
        return graph

    def to_json(self) -> list[dict[str, Any]]:
        """Return the recipe as data: each pass by its name in the package, with its settings."""
        return [
            {"pass": f"{type(step).__module__.split('.')[1]}.{type(step).__name__}", **_settings(step)}
            for step in self.passes
        ]

    @staticmethod
    def from_json(data: list[dict[str, Any]], teachers: Iterable[Graph] = ()) -> Recipe:
        """Read what `to_json` wrote.

        Args:
            data: a pass an entry.
            teachers: the graphs that the recipe names by their content.

        Raises:
            SettingError: a pass or a setting that this leanly does not have.
        """
        known = {_hash(teacher): teacher for teacher in teachers}
        return Recipe(tuple(_read(entry, known) for entry in data))


def _settings(step: Any) -> dict[str, Any]:
    return {
        field.name: _plain(getattr(step, field.name), step)
        for field in dataclasses.fields(step)
        if field.metadata.get("recipe", True)
    }


def _plain(value: Any, step: Any) -> Any:
    """Write a setting as JSON: a graph by its content, a function of the pass's room by its name, others as own."""
    if isinstance(value, tuple | list):
        return [_plain(item, step) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), step) for field in dataclasses.fields(value)}
    if callable(getattr(value, "fingerprint", None)):
        return _hash(value)
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        room = importlib.import_module(type(step).__module__.rpartition(".")[0])
        if name in room.__all__ and getattr(room, name) is value:
            return name
        named = value if hasattr(value, "__qualname__") else type(value)
        return {OWN: f"{named.__module__}.{named.__qualname__}"}
    return value


def _hash(graph: Any) -> str:
    return f"sha256:{graph.fingerprint()}"


def _read(entry: dict[str, Any], known: dict[str, Graph]) -> Pass:
    entry = dict(entry)
    name = str(entry.pop("pass", ""))
    room, _, kind = name.partition(".")
    found = None
    if room in ROOMS:
        module = importlib.import_module(f"leanly.{room}")
        found = getattr(module, kind, None) if kind in module.__all__ else None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise SettingError(
            f"there is no pass named {name!r}", where="recipe", remedy="update leanly or mend the recipe"
        )
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    settings = {key: known.get(value, value) if isinstance(value, str) else value for key, value in settings.items()}
    for key, value in settings.items():
        if isinstance(value, dict) and set(value) == {OWN}:
            raise SettingError(
                f"the recipe is not portable: {key} of {name} was the user's own {value[OWN]}",
                where="recipe",
                remedy=f"make the pass in Python with {key}={value[OWN].rpartition('.')[2]}",
            )
    try:
        return found(**settings)  # type: ignore[return-value]
    except TypeError as error:
        raise SettingError(
            f"pass {name} has other settings ({error})", where="recipe", remedy="mend the recipe"
        ) from error

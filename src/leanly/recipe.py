"""Pass and Recipe: what is done to a graph, as data."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from leanly.errors import SettingError

if TYPE_CHECKING:
    from leanly.graph import Graph
    from leanly.target import Target
    from leanly.task import Task

ROOMS = ("quantize", "prune", "distill")
OWN = "own"
"""Marks a setting that is a function of the user's own: such a recipe can be told, not read back."""


class Pass(Protocol):
    """Frozen settings and one method; it never changes its input."""

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph: ...


@dataclass(frozen=True)
class Recipe:
    """An ordered tuple of passes; empty is the unmodified model."""

    passes: tuple[Pass, ...] = ()

    @property
    def portable(self) -> bool:
        """Whether `from_json` can read it back: no setting is a function of the user's own."""
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
    def from_json(data: list[dict[str, Any]]) -> Recipe:
        """Read what `to_json` wrote.

        Raises:
            SettingError: a pass or a setting that this leanly does not have.
        """
        return Recipe(tuple(_read(entry) for entry in data))


def _settings(step: Any) -> dict[str, Any]:
    settings = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    return {name: _plain(value, step) for name, value in settings.items()}


def _plain(value: Any, step: Any) -> Any:
    """Write a setting as JSON: a function of the pass's room by its name, one of the user's own by where it is."""
    if isinstance(value, tuple):
        return list(value)
    if callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        room = importlib.import_module(type(step).__module__.rpartition(".")[0])
        if name in room.__all__ and getattr(room, name) is value:
            return name
        return {OWN: f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', name)}"}
    return value


def _read(entry: dict[str, Any]) -> Pass:
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
    for key, value in settings.items():
        if isinstance(value, dict) and set(value) == {OWN}:
            raise SettingError(
                f"the recipe is not portable: {key} of {name} was the user's own function {value[OWN]}",
                where="recipe",
                remedy=f"make the pass in Python with {key}={value[OWN].rpartition('.')[2]}",
            )
    try:
        return found(**settings)  # type: ignore[return-value]
    except TypeError as error:
        raise SettingError(
            f"pass {name} has other settings ({error})", where="recipe", remedy="mend the recipe"
        ) from error

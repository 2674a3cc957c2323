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

ROOMS = ("quantize", "prune", "distill", "training")


class Pass(Protocol):
    """Frozen settings and one method; it never changes its input."""

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph: ...


@dataclass(frozen=True)
class Recipe:
    """An ordered tuple of passes; empty is the unmodified model."""

    passes: tuple[Pass, ...] = ()

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
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


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
    try:
        return found(**settings)  # type: ignore[return-value]
    except TypeError as error:
        raise SettingError(
            f"pass {name} has other settings ({error})", where="recipe", remedy="mend the recipe"
        ) from error

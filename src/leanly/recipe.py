"""Pass and Recipe: what is done to a graph, as data."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
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
        field.name: _plain(getattr(step, field.name), f"{type(step).__name__}.{field.name}")
        for field in dataclasses.fields(step)
        if field.metadata.get("recipe", True)
    }


def _plain(value: Any, where: str) -> Any:
    """Return a setting as JSON: a graph by its content, a criterion by its name in the package."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, where) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), where) for field in dataclasses.fields(value)}
    if callable(getattr(value, "fingerprint", None)):
        return _hash(value)
    if name := _public_name(value):
        return name
    if inspect.isroutine(value) or (callable(value) and not hasattr(value, "state_dict")):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return {OWN: f"{getattr(value, '__module__', '')}.{name}"}
    raise SettingError(
        f"a recipe can't hold {where}, a {type(value).__name__} of your own: it would run nowhere else",
        where=where,
        remedy="give what the package has by a name; a teacher as a Graph: leanly.capture(teacher, example=...)",
    )


def _public_name(value: Any) -> str:
    """Return the name under which a room of the package offers a function; empty where none does."""
    package, room, *_ = [*str(getattr(value, "__module__", "")).split("."), "", ""]
    name = getattr(value, "__name__", "")
    offered = getattr(sys.modules.get(f"leanly.{room}"), name, None) if package == "leanly" and room in ROOMS else None
    return name if name and offered is value else ""


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

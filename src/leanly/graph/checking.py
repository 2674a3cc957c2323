"""What is said to who gives something else where a graph is needed."""

from __future__ import annotations

from leanly.errors import SettingError
from leanly.graph.graph import Graph


def check_graph(graph: object, where: str) -> None:
    """Raise a SettingError where something else was given, as the module itself."""
    if not isinstance(graph, Graph):
        raise SettingError(
            f"a {type(graph).__name__} was given where a Graph is needed",
            where=where,
            remedy="give leanly.capture(model, example=...)",
        )

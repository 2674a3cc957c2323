"""Keeping graphs that took long to make, in memory and in the folder of the run, by the recipe that made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leanly.errors import BundleError
from leanly.files import digest
from leanly.graph import Graph
from leanly.recipe import Pass, Recipe

MOST = 4


class Kept:
    """Graphs by recipe: the last few in memory, smaller networks on disk too.

    Args:
        folder: where they are written; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: dict[str, Graph] = {}

    def get(self, passes: Sequence[Pass]) -> Graph | None:
        """Return the graph that a recipe made, None where it is not kept."""
        key = _key(passes)
        graph = self._memory.pop(key, None)
        path = self._path(key)
        if graph is None and path is not None and path.exists():
            try:
                graph = Graph.open(path)
            except BundleError:
                return None  # torn by a crash: it is made again
        if graph is not None:
            self._remember(key, graph)
        return graph

    def put(self, passes: Sequence[Pass], graph: Graph, *, on_disk: bool = False) -> None:
        """Keep a graph."""
        key = _key(passes)
        self._remember(key, graph)
        path = self._path(key)
        if on_disk and path is not None and not path.exists():
            graph.save(path)

    def _remember(self, key: str, graph: Graph) -> None:
        self._memory[key] = graph
        while len(self._memory) > MOST:
            del self._memory[next(iter(self._memory))]

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / key


def kept_network(folder: Path, recipe: Recipe) -> Path | None:
    """Return where the smaller network of a recipe lies: its longest beginning that was kept on disk."""
    for count in range(len(recipe.passes), 0, -1):
        path = folder / _key(recipe.passes[:count])
        if path.exists():
            return path
    return None


def _key(passes: Sequence[Pass]) -> str:
    return digest(Recipe(tuple(passes)).to_json())[:16]

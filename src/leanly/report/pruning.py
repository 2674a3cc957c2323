"""The page of a cut in its four steps: trained, scored, pruned, verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanly.errors import SettingError
from leanly.files import write_bytes
from leanly.measurement.cut import CutReport, examine_cut
from leanly.report.environment import environment
from leanly.search import words

if TYPE_CHECKING:
    from leanly.graph import Graph
    from leanly.task import Task

SHADES = 5
"""Steps of the heat map; every cell holds its figure too."""


def pruning(
    graph: Graph,
    small: Graph,
    task: Task,
    path: str | Path,
    *,
    criteria: Sequence[Callable[..., dict[str, Any]]] = (),
    max_drop: float | str = 0.01,
    progress: Callable[[str], None] | None = None,
) -> CutReport:
    """Write a cut down as one HTML page that fetches nothing, and return what it shows.

    Args:
        graph: before the cut, trained.
        small: after it, and after what training followed.
        task: `test` verifies, `validation` where there is none; criteria read `train`.
        path: of the page.
        criteria: that the heat map shows; every one of `leanly.prune` where none are given.
        max_drop: of the metric, that is tested: 0.01 or "1%".
        progress: is told the criterion that is at work, which takes minutes where the network is large: `print`.

    Raises:
        DataError: the task has no rows to verify on.
        SettingError: something else than a graph, a task or a criterion was given, the smaller graph as the first, or
            one that is no part of it; `path` is a folder.
        MissingExtra: jinja2 is not installed.
    """
    if Path(path).is_dir():
        raise SettingError("a folder is there", where=str(path), remedy="give the page's own name, as cut.html in it")
    if not criteria:
        from leanly.prune.importance import CRITERIA

        criteria = tuple(CRITERIA.values())
    report = examine_cut(graph, small, task, criteria, max_drop=max_drop, progress=progress)
    write_bytes(Path(path), page(report).encode())
    return report


def page(report: CutReport) -> str:
    """Return the page.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    return (
        environment()
        .get_template("pruning.html")
        .render(report=report, words=words, verdict=verdict(report), shade=_shade, shape=_shape)
    )


def verdict(report: CutReport) -> tuple[str, str]:
    """Return what the paired test says, as a word for the style and a sentence."""
    allowed = words.drop(report.max_drop, report.metric)
    level = 1 - report.drop.drop.confidence
    if report.drop.p_below <= level:
        return "good", f"shown to be below {allowed}"
    if report.drop.p_above <= level:
        return "bad", f"shown to be above {allowed}"
    return "open", f"not shown to be below {allowed}, nor above: more rows would tell"


def _shade(share: float) -> int:
    return min(int(share * SHADES), SHADES - 1)


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes)) if sizes else "gone"

"""A row of a benchmark: what was reached with its interval, the aim, the peer beside it, and ok / short / undecided."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

import leanly
from bench.data import CACHE
from leanly.files import digest, read_json, write_json
from leanly.measurement.records import Interval
from leanly.target import Target
from leanly.training import Progress

RESULTS = Path(__file__).parent / "results"
Outcome = Literal["ok", "short", "undecided"]
COLOURS = {"ok": "green", "short": "red", "undecided": "yellow"}


@dataclass(frozen=True)
class Row:
    """One claim and what came of it.

    Args:
        name: what is claimed of what.
        reached: the estimate and its interval.
        unit: of the estimate, as it is printed behind it.
        aim: the claim's limit in words.
        peer: who stands beside it, with its own figure.
        seeds: how many seeds were run.
        outcome: "undecided" is said when the data shows neither.
        note: by how much it is undecided or short, or what else a reader must know.
    """

    name: str
    reached: Interval
    unit: str
    aim: str
    peer: str
    seeds: int
    outcome: Outcome
    note: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The estimate with its interval, at a precision that shows both."""
        return f"{self.reached.value:.3g} [{self.reached.low:.3g}, {self.reached.high:.3g}] {self.unit}".rstrip()


def at_most(interval: Interval, limit: float) -> Outcome:
    """Say whether the truth is at most `limit`: ok when the whole interval is."""
    if interval.high <= limit:
        return "ok"
    return "short" if interval.low > limit else "undecided"


def at_least(interval: Interval, limit: float) -> Outcome:
    """Say whether the truth is at least `limit`: ok when the whole interval is."""
    if interval.low >= limit:
        return "ok"
    return "short" if interval.high < limit else "undecided"


def print_table(title: str, rows: Sequence[Row], console: Console | None = None) -> None:
    """Print the rows, one line each."""
    headings = ("row", "reached [95 %]", "aim", "best peer", "seeds", "", "note")
    lines = [
        (row.name, row.shown, row.aim, row.peer, str(row.seeds), f"[{COLOURS[row.outcome]}]{row.outcome}[/]", row.note)
        for row in rows
    ]
    print_lines(title, headings, lines, console)


def print_lines(
    title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], console: Console | None = None
) -> None:
    """Print a table of texts; the short columns are never broken, and a file gets wide lines."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(width=200)
    table = Table(title=title, title_justify="left")
    for position, heading in enumerate(headings):
        table.add_column(heading, no_wrap=max((len(line[position]) for line in lines), default=0) < 30)
    for line in lines:
        table.add_row(*(text.replace("[", "\\[") if "[/]" not in text else text for text in line))
    console.print(table)


def write_results(
    name: str, rows: Sequence[Row], target: Target, settings: dict[str, Any], more: dict[str, Any]
) -> Path:
    """Write `bench/results/NAME.json`: the rows, the settings, the machine, the versions and the thread count."""
    path = RESULTS / f"{name}.json"
    write_json(path, {"benchmark": name, **_content(rows, target, settings, more)})
    return path


def write_part(
    name: str, part: str, rows: Sequence[Row], target: Target, settings: dict[str, Any], more: dict[str, Any]
) -> Path:
    """Write one part of `bench/results/NAME.json`, with what `write_results` writes; other parts stay as they are.

    A part takes hours, so that they are run one by one: each says on which machine and with which code that was.
    """
    path = RESULTS / f"{name}.json"
    parts = read_json(path)["parts"] if path.exists() else {}
    write_json(path, {"benchmark": name, "parts": {**parts, part: _content(rows, target, settings, more)}})
    return path


def _content(rows: Sequence[Row], target: Target, settings: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    machine = {
        key: sorted(value) if isinstance(value, frozenset) else value
        for key, value in dataclasses.asdict(target.machine).items()
    }
    return {
        "date": datetime.date.today().isoformat(),
        "settings": settings,
        "threads": target.threads,
        "machine": machine,
        "versions": target.versions(),
        "code": code_version(),
        "rows": [dataclasses.asdict(row) for row in rows],
        **more,
    }


def exit_code(rows: Iterable[Row]) -> int:
    """Return 1 when any row is short of its aim, else 0."""
    return int(any(row.outcome == "short" for row in rows))


def told(what: str) -> Callable[[Progress], None]:
    """Return what prints now and then how far a training is."""

    def tell(progress: Progress) -> None:
        if progress.step % 100 == 0:
            left = "" if progress.seconds_left is None else f", {progress.seconds_left:.0f} s left"
            print(f"{what}: {progress.fraction:.1%}, validation {progress.metric}{left}", flush=True)

    return tell


def kept(what: str, key: dict[str, Any], folder: Path = CACHE / "rows") -> Path:
    """Return where `cached` keeps what was made for a key."""
    return folder / f"{what}-{digest(key)[:20]}.json"


def cached(what: str, key: dict[str, Any], make: Callable[[], Any], folder: Path = CACHE / "rows") -> Any:
    """Return what `make` gave, as JSON data; it is made once for each `key` and kept in a folder."""
    path = kept(what, key, folder)
    if path.exists():
        return read_json(path)["value"]
    value = make()
    write_json(path, {"key": key, "value": value})
    return read_json(path)["value"]


def code_version(*files: str | Path, rooms: Sequence[str] = ()) -> str:
    """Return a hash over the package's code, which is what is measured, and over the named files of the benchmark.

    Args:
        files: of the benchmark.
        rooms: folders of the package, where what is measured takes no others.
    """
    package = Path(leanly.__file__).parent
    aside = {package / room for room in ("cli", "report", "bundle")}
    paths = [path for path in sorted(package.rglob("*.py")) if not aside & set(path.parents)]
    if rooms:
        paths = [path for path in paths if {package / room for room in rooms} & set(path.parents)]
    hasher = hashlib.sha256()
    for path in (*paths, *map(Path, files)):
        hasher.update(path.name.encode() + path.read_bytes())
    return hasher.hexdigest()[:16]


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {package: importlib.metadata.version(package) for package in packages}

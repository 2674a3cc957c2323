"""How a search ends on the command line: report, bundle, verdict, next command, exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from leanly.pipeline import Result

NOTHING_MET = 1


def end(result: Result, folder: Path, bundle: Path, key: Path | None = None) -> None:
    """Write the report and the bundle, say the verdict and the next command.

    Raises:
        typer.Exit: nothing met the whole budget.
    """
    report = folder / "report.html"
    result.report(report)
    print(result.sentence)
    for note in result.notes:
        print(f"note: {note}")
    print(f"report: {report}")
    if result.choices:
        result.save(bundle, key=key)
        print(f"bundle: {bundle}\nnext:   leanly verify {bundle}")
    for reason in result.missed:
        print(f"not met: {reason}")
    if not result.met:
        raise typer.Exit(NOTHING_MET)

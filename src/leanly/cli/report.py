"""`leanly report RUN`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, ended or not.", show_default=False, metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option(help="Where the page goes; by default RUN/report.html.", show_default=False)
    ] = None,
) -> None:
    """Write the report of a run again: one HTML file that needs nothing else."""
    from leanly.files import write_bytes
    from leanly.search.outcome import open_outcome

    outcome = open_outcome(run)

    from leanly.report import page

    path = out or run / "report.html"
    write_bytes(path, page(outcome).encode())
    print(outcome.sentence)
    print(f"report: {path}")

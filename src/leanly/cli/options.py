"""Options that several commands share, and reading them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leanly.errors import SettingError

if TYPE_CHECKING:
    from leanly.target import Target

Threads = Annotated[int | None, typer.Option(help="Threads of a call; by default the cores this process may use.")]
BatchSizes = Annotated[str, typer.Option(help="Rows in a call, each timed: 1 or 1,16.")]
Runtimes = Annotated[
    str, typer.Option(help="Runtimes that may be used: onnxruntime,openvino,torch; by default all that are installed.")
]
PublicKey = Annotated[
    Path | None, typer.Option(help="Ask for a signature by this key: a file, PEM or 32 raw bytes.", show_default=False)
]
TASK_HELP = "FILE.py:NAME, where NAME is a leanly.Task or a function that returns one."


def read_target(threads: int | None, batch_sizes: str, runtimes: str = "") -> Target:
    """Make the target of what was typed.

    Raises:
        SettingError: a value that can't be read.
    """
    from leanly.target import Target

    names = tuple(name.strip() for name in runtimes.split(",") if name.strip())
    return Target("cpu", threads=threads, batch_sizes=read_sizes(batch_sizes), runtimes=names or None)


def read_sizes(text: str) -> tuple[int, ...]:
    """Read "1,16" as (1, 16).

    Raises:
        SettingError: it is not a list of whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SettingError(
            f"batch sizes {text!r} can't be read", where="--batch-sizes", remedy="write whole numbers such as 1,16"
        ) from error

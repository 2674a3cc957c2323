"""The journal of a run: one JSON line an event, flushed to the disk before the run goes on; a torn tail is cut."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from leanly.errors import RunError
from leanly.files import canonical_json

try:
    import fcntl
except ImportError:  # not on Windows: two runs in one folder are then not noticed
    fcntl = None


def read_events(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read the whole lines of a journal.

    Args:
        path: the journal; a missing one has no events.

    Returns:
        The events, and how many bytes they take: what lies beyond is a torn tail.

    Raises:
        RunError: a line before the last is damaged, which a crash can't have done.
    """
    content = path.read_bytes() if path.exists() else b""
    events: list[dict[str, Any]] = []
    whole = 0
    lines = content.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            if not line.endswith(b"\n") or not isinstance(event, dict):
                raise ValueError("not a whole object")
        except ValueError as error:
            if number < len(lines):
                raise RunError(
                    f"line {number} of the journal is damaged ({error})",
                    where=str(path),
                    remedy="name another `out`: this run was altered",
                ) from error
            break
        events.append(event)
        whole += len(line)
    return events, whole


class Journal:
    """An append-only file of events, held by one process at a time.

    Args:
        path: the file; it is made when missing, and a torn last line (a crash while writing) is cut off.

    Raises:
        RunError: another process holds it, it is damaged, or it can't be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = open(path, "ab")  # noqa: SIM115  (held for the whole run)
        except OSError as error:
            raise RunError(
                f"the journal can't be written ({error.strerror})",
                where=str(path),
                remedy="name a folder you may write to",
            ) from error
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self._file.close()
                raise RunError(
                    "another process is working in this run",
                    where=str(path.parent),
                    remedy="wait for it or name another `out`",
                ) from error
        try:
            self.events, whole = read_events(path)
        except RunError:
            self._file.close()
            raise
        self._file.truncate(whole)

    def write(self, event: str, **content: Any) -> None:
        """Append one event; when this returns it is on the disk."""
        line = {"event": event, **content}
        self._file.write(canonical_json(line) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.events.append(line)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""Processes of their own that need not import PyTorch first: forked from one that has (`tests.warm`)."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.warm"])


def python(
    arguments: Sequence[object], cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python SCRIPT ...`, `-m MODULE ...` or `-c CODE ...`, and return what it printed and its exit status.

    Args:
        arguments: what follows `python`.
        cwd: where it stands.
        environment: all of its variables; by default those of this process.
    """
    command = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        told = [Path(folder) / name for name in ("out", "err")]
        process = CONTEXT.Process(target=_run, args=(command, cwd, dict(environment or os.environ), told))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, *(path.read_text() for path in told))


def _run(command: list[str], cwd: Path | None, environment: dict[str, str], told: Sequence[Path]) -> None:
    """Become what was asked for; multiprocessing makes an exit status of what it ends with."""
    for stream, path in enumerate(told, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd or Path.cwd())
    sys.path[:0] = ["", *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    match command:
        case ["-m", module, *rest]:
            sys.argv = ["-m", *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case [script, *_]:
            sys.argv = command
            runpy.run_path(script, run_name="__main__")

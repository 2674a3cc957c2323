"""Worker: an artifact in a process of its own, spoken to in JSON lines; killed, never orphaned."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import leanly
from leanly.artifact import Artifact
from leanly.errors import WorkerError

START_LIMIT = 300.0
"""Seconds to open an artifact; torch.compile is slow."""
CALL_LIMIT = 600.0
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_CAN_PAUSE = hasattr(signal, "SIGSTOP")


class Worker:
    """An opened artifact in its own process; use it as a context manager.

    Args:
        artifact: what is opened, with its plans as they are in memory.
        threads: worker threads of the runtime and of the libraries under it.
        limit: seconds that opening may take.

    Raises:
        WorkerError: the process died, took too long, or could not open the artifact.
    """

    def __init__(self, artifact: Artifact, threads: int, *, limit: float = START_LIMIT) -> None:
        self.artifact = artifact
        self._files = tempfile.TemporaryDirectory(prefix="leanly-worker-")
        self._folder = Path(self._files.name)
        self._stderr = open(self._folder / "stderr", "w+b")  # noqa: SIM115 - closed in close()
        self._paused = False
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "leanly.measurement.worker_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(threads),
            # A group of its own in the same session: Ctrl-C reaches only the parent, which then kills the workers; and
            # when the parent is killed, the kernel hangs up on groups left alone with stopped processes in them.
            process_group=0 if os.name == "posix" else None,
        )
        self._replies: queue.Queue[bytes] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True, name="leanly-worker-replies")
        self._listener.start()
        try:
            replace(artifact, folder=self._folder).save()
            opened = self.ask(
                {
                    "do": "open",
                    "description": str(self._folder),
                    "folder": str(Path(artifact.folder).resolve()),
                    "threads": threads,
                },
                limit,
            )
        except BaseException:
            self.close()
            raise
        self._opening: float = opened["seconds"]
        self._first: float | None = None
        self._before: int | None = opened["peak"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def open_seconds(self) -> float:
        """Seconds of decoding, opening and the first call: runtimes put off part of opening until then."""
        return self.artifact.decode_seconds + self._opening + (self._first or 0.0)

    def load(self, key: str, arrays: Sequence[np.ndarray]) -> None:
        """Give the worker flat inputs to be timed on, under a name."""
        self.ask({"do": "load", "key": key, "files": self._write(arrays)})

    def warm(self, key: str, limit: float) -> float:
        """Call until the time per call is steady or `limit` seconds are over; return the seconds per call."""
        reply = self.ask({"do": "warm", "key": key, "limit": limit}, CALL_LIMIT + limit)
        self._first = reply["first"] if self._first is None else self._first
        return float(reply["seconds"])

    def time(self, key: str, discard: int, calls: int) -> tuple[float, ...]:
        """Return the seconds of each of `calls` calls, after `discard` that don't count."""
        return tuple(self.ask({"do": "time", "key": key, "discard": discard, "calls": calls})["seconds"])

    def predict(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run one batch of flat inputs and return flat outputs."""
        files = self._write(arrays)
        reply = self.ask({"do": "predict", "files": files, "prefix": str(self._folder / f"out{self._count}")})
        outputs = [np.load(file, allow_pickle=False) for file in reply["files"]]
        for file in (*files, *reply["files"]):
            Path(file).unlink()
        return outputs

    def profile(self, key: str, calls: int) -> dict[str, float]:
        """Return the median seconds of each node over some calls."""
        return self.ask({"do": "profile", "key": key, "calls": calls})["nodes"]

    def peak_memory(self) -> int | None:
        """Return by how many bytes the peak resident memory has grown since just before the artifact was opened."""
        peak = self.ask({"do": "memory"})["peak"]
        return None if peak is None or self._before is None else max(0, peak - self._before)

    def pause(self) -> None:
        """Stop the process between its turns, so that threads that spin don't disturb the others; it has stopped."""
        if _CAN_PAUSE and not self._paused:
            self._signal(signal.SIGSTOP)
            self._paused = True
            if hasattr(os, "waitid"):
                with contextlib.suppress(ChildProcessError):
                    # Stopped or ended; which of them stays for Popen to see.
                    os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let the process run again."""
        if self._paused:
            self._signal(signal.SIGCONT)
            self._paused = False

    def ask(self, request: dict[str, Any], limit: float = CALL_LIMIT) -> dict[str, Any]:
        """Send one request and return the reply.

        Raises:
            WorkerError: the process died, took longer than `limit` seconds, or answered with an error.
        """
        self.resume()
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            line = self._replies.get(timeout=limit)
        except (BrokenPipeError, ValueError):
            line = b""
        except queue.Empty:
            self._kill()
            raise self._error(f"the worker did not answer within {limit:g} seconds", request) from None
        if not line.endswith(b"\n"):
            self._kill()
            raise self._error(f"the worker died {_how(self._process.returncode)}", request)
        reply = json.loads(line)
        if not reply["ok"]:
            if reply["told"]:
                what, where, remedy = reply["told"]
                raise WorkerError(what, where=where, remedy=remedy)
            raise self._error(f"the worker failed with {reply['error']}", request)
        return reply

    def close(self) -> None:
        """End the process, kindly first, and remove its files."""
        with contextlib.suppress(BrokenPipeError, OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self.resume()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill()
            # Closing a pipe that is being read would wait for ever; the dead process's end has closed it by now.
            self._listener.join(timeout=2)
            if self._process.stdout is not None and not self._listener.is_alive():
                self._process.stdout.close()
            self._stderr.close()
            self._files.cleanup()

    def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed while reading
            for line in stdout:
                self._replies.put(line)
        self._replies.put(b"")

    def _write(self, arrays: Sequence[np.ndarray]) -> list[str]:
        self._count += 1
        names = [str(self._folder / f"in{self._count}.{number}.npy") for number in range(len(arrays))]
        for name, array in zip(names, arrays, strict=True):
            np.save(name, np.ascontiguousarray(array), allow_pickle=False)
        return names

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _kill(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                # Its group too: torch.compile starts processes that build kernels.
                if os.name == "posix":
                    os.killpg(self._process.pid, signal.SIGKILL)
                else:
                    self._process.kill()
        self._process.wait()

    def _error(self, what: str, request: dict[str, Any]) -> WorkerError:
        self._stderr.seek(0)
        tail = self._stderr.read()[-2000:].decode(errors="replace").strip().splitlines()[-8:]
        said = f"; its last words: {' | '.join(tail)}" if tail else ""
        return WorkerError(
            what + said,
            where=f"{self.artifact.runtime} worker, {request['do']}, {self.artifact.folder}",
            remedy="try `leanly measure` on it alone; if that fails too, lower it again or leave this runtime out",
        )


def _how(code: int | None) -> str:
    if code is None:
        return ""
    if code < 0:
        return f"by signal {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _environment(threads: int) -> dict[str, str]:
    source = str(Path(leanly.__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (source, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, **dict.fromkeys(_THREAD_SETTINGS, str(threads)), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

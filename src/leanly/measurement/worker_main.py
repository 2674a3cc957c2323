"""The measuring process: opens one artifact and answers JSON lines on stdin with JSON lines on stdout.

Run as `python -m leanly.measurement.worker_main`. Arrays travel as .npy files. It ends when stdin closes, so that it
never outlives the process that started it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from leanly.runtimes import RuntimePredictor

STEADY = 0.05
"""Warm-up ends when the median of the last calls is within this share of the median before them."""
WINDOW = 5


class Session:
    """What the worker holds between requests: the opened artifact and the inputs it is timed on."""

    def __init__(self) -> None:
        self._predictor: RuntimePredictor | None = None
        self._inputs: dict[str, list[np.ndarray]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request and return what it gave."""
        # One line a request: the protocol is here to be read.
        match request["do"]:
            case "open":
                return self.open(Path(request["description"]), Path(request["folder"]), request["threads"])
            case "load":
                self._inputs[request["key"]] = _read(request["files"])
                return {}
            case "warm":
                seconds = self.warm(request["key"], request["limit"])
                return {"first": seconds[0], "seconds": _settled(seconds)}
            case "time":
                return {"seconds": self.time(request["key"], request["discard"], request["calls"])}
            case "predict":
                return {"files": self.predict(request["files"], request["prefix"])}
            case "profile":
                return {"nodes": self.predictor.node_seconds(self._inputs[request["key"]], request["calls"])}
            case "memory":
                return {"peak": peak_memory()}
        raise ValueError(f"unknown request {request['do']!r}")

    @property
    def predictor(self) -> RuntimePredictor:
        """The opened artifact."""
        assert self._predictor is not None, "the artifact is opened first"
        return self._predictor

    def open(self, description: Path, folder: Path, threads: int) -> dict[str, Any]:
        """Open an artifact whose description lies apart from its files (its plans may differ from those on disk)."""
        from leanly.artifact import Artifact

        artifact = replace(Artifact.open(description), folder=folder)
        before = peak_memory()
        start = time.perf_counter()
        from leanly.runtimes import open_artifact  # a runtime's own import is part of opening

        self._predictor = open_artifact(artifact, threads=threads)
        return {"seconds": time.perf_counter() - start, "peak": before}

    def warm(self, key: str, limit: float) -> list[float]:
        """Call until the time per call is steady or `limit` seconds are over; return the seconds of each call."""
        run, arrays = self.predictor.run, self._inputs[key]
        seconds: list[float] = []
        start = time.perf_counter()
        while True:
            begin = time.perf_counter_ns()
            run(arrays)
            seconds.append((time.perf_counter_ns() - begin) / 1e9)
            if len(seconds) >= 2 * WINDOW:
                last, before = median(seconds[-WINDOW:]), median(seconds[-2 * WINDOW : -WINDOW])
                # Ten calls of a few microseconds say nothing about clock speed: a tenth of the limit at least.
                if abs(last - before) <= STEADY * before and time.perf_counter() - start > limit / 10:
                    break
            # The first call may have compiled: it does not count, so that at least one other is seen.
            if len(seconds) > 1 and time.perf_counter() - start - seconds[0] > limit:
                break
        return seconds

    def time(self, key: str, discard: int, calls: int) -> list[float]:
        """Time calls one by one, after some that don't count (caches and clocks come back)."""
        run, arrays, clock = self.predictor.run, self._inputs[key], time.perf_counter_ns
        for _ in range(discard):
            run(arrays)
        stamps = [0] * (2 * calls)
        gc.disable()
        try:
            for index in range(0, 2 * calls, 2):
                stamps[index] = clock()
                run(arrays)
                stamps[index + 1] = clock()
        finally:
            gc.enable()
        return [(stamps[index + 1] - stamps[index]) / 1e9 for index in range(0, 2 * calls, 2)]

    def predict(self, files: list[str], prefix: str) -> list[str]:
        """Run one batch and write each output to a file."""
        outputs = self.predictor.run(_read(files))
        names = [f"{prefix}.{number}.npy" for number in range(len(outputs))]
        for name, output in zip(names, outputs, strict=True):
            np.save(name, output, allow_pickle=False)
        return names


def peak_memory() -> int | None:
    """Return this process's peak resident memory in bytes, None where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _settled(seconds: list[float]) -> float:
    return median(seconds[-WINDOW:] if len(seconds) > WINDOW else seconds[1:])


def _read(files: list[str]) -> list[np.ndarray]:
    return [np.load(file, allow_pickle=False) for file in files]


@contextlib.contextmanager
def _protocol() -> Iterator[Any]:
    """Keep stdout for the protocol; what libraries print goes to stderr, in C as in Python."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with stream:
        yield stream


def main() -> None:
    """Answer requests until stdin closes."""
    session = Session()
    with _protocol() as stream:
        for line in sys.stdin:
            try:
                reply: dict[str, Any] = {"ok": True, **session.answer(json.loads(line))}
            except Exception as error:
                from leanly.errors import LeanlyError

                told = (error.what, error.where, error.remedy) if isinstance(error, LeanlyError) else None
                reply = {"ok": False, "error": f"{type(error).__name__}: {error}", "told": told}
            stream.write(json.dumps(reply) + "\n")
            stream.flush()


if __name__ == "__main__":
    main()

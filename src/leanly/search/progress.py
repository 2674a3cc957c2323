"""Tells people how a run goes on: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from leanly.search import words
from leanly.search.trial import Trial

if TYPE_CHECKING:
    from rich.text import Text


def trial_line(trial: Trial, metric: str, left: float) -> str:
    """Write a trial as one line: number, label, metric with drop, latency at each batch size, verdict, time left."""
    parts = [f"[{trial.number:2d}] {trial.label}"]
    if trial.measurement is not None:
        score = f"{metric} {words.metric(trial.metric, metric)}"
        if trial.number and trial.verdict and trial.verdict.drop:
            score += f" (drop {words.drop(trial.verdict.drop.value, metric)})"
        parts.append(score)
        parts += [f"batch {size}: {words.seconds(latency.median)}" for size, latency in trial.latency.items()]
    if trial.state == "measured" and trial.verdict is not None and trial.number:
        parts.append(trial.verdict.outcome)
    elif trial.state != "measured":
        parts.append(f"{trial.state}: {trial.reason}")
    parts.append(words.left(left))
    return " | ".join(parts)


def best_line(best: Trial | None, reference: Trial | None) -> str:
    """Write the best so far and its speed-up over eager PyTorch."""
    if best is None or reference is None or not best.latency or not reference.latency:
        return "nothing measured yet"
    speedups = [
        f"{words.seconds(latency.median)} at batch {size}, {reference.latency[size].median / latency.median:.1f}x eager"
        for size, latency in best.latency.items()
    ]
    return f"best so far {best.label} ({'; '.join(speedups)})"


class Lines:
    """Plain lines, one a trial.

    Args:
        metric: name of the metric.
        stream: where they go.
    """

    def __init__(self, metric: str, stream: TextIO | None = None) -> None:
        self.metric = metric
        self.stream = sys.stderr if stream is None else stream

    def begin(self, what: str, expected: float, left: float) -> None:
        """Nothing is said: the trial's own line follows."""

    def trial(self, trial: Trial, best: Trial | None, left: float) -> None:
        """Write the trial's line."""
        self.say(trial_line(trial, self.metric, left))

    def say(self, text: str) -> None:
        """Write a line."""
        print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Nothing is open."""


class Live:
    """Lines for what ended, and below them a live line: the step, the time left, the best so far.

    Args:
        metric: name of the metric.
        left: tells the seconds left, so that the line counts down between events.
    """

    def __init__(self, metric: str, left: Callable[[], float]) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.metric = metric
        self._left = left
        self._step = "starting"
        self._best = best_line(None, None)
        self._reference: Trial | None = None
        self._lock = threading.Lock()
        self.console = Console(stderr=True, highlight=False)
        self._live = RichLive(
            console=self.console,
            get_renderable=self._render,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
        )
        self._live.start()

    def _render(self) -> Text:
        from rich.text import Text

        with self._lock:
            return Text(
                f"{self._step} | {words.left(self._left())} | {self._best}",
                style="bold",
                overflow="ellipsis",
                no_wrap=True,
            )

    def begin(self, what: str, expected: float, left: float) -> None:
        """Show the step and how long it will take."""
        with self._lock:
            self._step = what + (f" (about {words.seconds(expected)})" if expected >= 1 else "")

    def trial(self, trial: Trial, best: Trial | None, left: float) -> None:
        """Print the trial's line and show the best so far."""
        with self._lock:
            if trial.number == 0:
                self._reference = trial
            self._best = best_line(best, self._reference)
        self.say(trial_line(trial, self.metric, left))

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        from rich.markup import escape

        self.console.print(escape(text), soft_wrap=True)

    def close(self) -> None:
        """Take the live line away."""
        self._live.stop()

"""Latency of a few artifacts at one batch size, as intervals on a log axis."""

from __future__ import annotations

from dataclasses import dataclass

from leanly.report.plot import SHAPES, kind_of, tick_seconds
from leanly.report.scale import Axis
from leanly.search import words
from leanly.search.trial import Trial

WIDTH, ROW, TOP, BOTTOM = 360, 46, 8, 30


@dataclass(frozen=True)
class Bar:
    """One artifact: where its median and its interval lie."""

    kind: str
    shape: str
    title: str
    label: str
    y: float
    value: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Bars:
    """All that the template draws."""

    batch_size: int
    width: int
    height: int
    ticks: list[tuple[float, str]]
    bars: list[Bar]
    start: int


def latency_bars(roles: list[tuple[str, Trial]], batch_size: int, confidence: float) -> Bars | None:
    """Lay out the intervals of what the story is about; None where nothing was timed."""
    timed = [(role, trial) for role, trial in roles if batch_size in trial.latency]
    if not timed:
        return None
    intervals = [trial.latency[batch_size].interval(confidence) for _, trial in timed]
    low, high = min(i.low for i in intervals), max(i.high for i in intervals)
    axis = Axis(low / 1.3, high * 1.3, 6, WIDTH - 14, log=True)
    bars = [
        Bar(
            kind=kind_of(trial),
            shape=SHAPES[kind_of(trial)],
            title=f"{_short(role)}: {words.latency(interval)}",
            label=trial.label,
            y=TOP + ROW * index + 30,
            value=axis.place(interval.value),
            low=axis.place(interval.low),
            high=axis.place(interval.high),
            text=words.latency(interval),
        )
        for index, ((role, trial), interval) in enumerate(zip(timed, intervals, strict=True))
    ]
    ticks = [(axis.place(value), tick_seconds(value)) for value in axis.ticks(4)]
    return Bars(batch_size, WIDTH, TOP + ROW * len(bars) + BOTTOM, ticks, bars, 6)


def _short(role: str) -> str:
    """The role without its batch sizes, which the caption says."""
    return ", ".join(dict.fromkeys(part.partition(" at ")[0] for part in role.split(", ")))

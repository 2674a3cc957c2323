"""The Pareto plot of one batch size, as places on paper for the template to draw."""

from __future__ import annotations

from dataclasses import dataclass

from leanly.measurement.records import Interval
from leanly.report.scale import Axis
from leanly.search import words
from leanly.search.outcome import Outcome
from leanly.search.trial import Trial

SHAPES = {"reference": "diamond", "float32": "circle", "bfloat16": "square", "int8": "triangle"}
ROOM_BELOW = 3.0
"""The metric axis ends this many times the allowed drop below the reference; what is worse stands on its edge."""


@dataclass(frozen=True)
class Paper:
    """Size of a plot and of the room around it."""

    name: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    ticks: int


WIDE = Paper("wide", 860, 420, 78, 24, 20, 52, 9)
NARROW = Paper("narrow", 360, 340, 62, 14, 18, 50, 4)


@dataclass(frozen=True)
class Mark:
    """One trial on the plot."""

    number: int
    kind: str
    shape: str
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    label_x: float
    label_y: float
    anchor: str
    text: str
    on_front: bool
    shipped: bool
    state: str


@dataclass(frozen=True)
class Plot:
    """All that the template draws."""

    paper: Paper
    batch_size: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[Mark]
    front: str
    limit: float | None
    summary: str


def pareto_plot(outcome: Outcome, batch_size: int, paper: Paper) -> Plot | None:
    """Lay out latency (log axis) against the metric on validation; None where nothing was measured."""
    trials = [trial for trial in outcome.trials if trial.metric is not None and batch_size in trial.latency]
    if not trials or outcome.reference.metric is None:
        return None
    latency = {trial.number: trial.latency[batch_size].interval(confidence(outcome)) for trial in trials}
    scores = {trial.number: _score(outcome, trial) for trial in trials}
    x = _latency_axis(list(latency.values()), paper)
    y = _metric_axis(outcome, list(scores.values()), paper)
    shipped = outcome.choices[batch_size].shipped if batch_size in outcome.choices else None
    taken: list[tuple[float, float]] = []
    marks = []
    # what is shipped and the front are drawn last, above the others
    for trial in sorted(trials, key=lambda trial: (trial.number == shipped, trial.number in outcome.front)):
        a, b = latency[trial.number], scores[trial.number]
        place = (x.place(a.value), y.place(b.value))
        label_x, label_y, anchor = _label(place, taken, paper)
        taken.append((label_x, label_y))
        kind = kind_of(trial)
        marks.append(
            Mark(
                trial.number,
                kind,
                SHAPES[kind],
                *place,
                left=x.place(a.low),
                right=x.place(a.high),
                top=y.place(b.high),
                bottom=y.place(b.low),
                label_x=label_x,
                label_y=label_y,
                anchor=anchor,
                text=_describe(outcome, trial, a, b, shipped),
                on_front=trial.number in outcome.front,
                shipped=trial.number == shipped,
                state=trial.state,
            )
        )
    line = sorted((mark.x, mark.y) for mark in marks if mark.on_front)
    floor = outcome.reference.metric - outcome.budget["max_drop"]
    return Plot(
        paper=paper,
        batch_size=batch_size,
        x_ticks=[(x.place(value), tick_seconds(value)) for value in x.ticks(paper.ticks)],
        y_ticks=[(y.place(value), _tick(value, outcome.metric)) for value in y.ticks(6)],
        marks=marks,
        front=_steps(line),
        limit=y.place(floor) if y.low <= floor <= y.high else None,
        summary=_summary(outcome, batch_size, len(marks)),
    )


def tick_seconds(value: float) -> str:
    """Write a round latency: "30 us", "1 ms"."""
    for factor, unit in ((1e6, "us"), (1e3, "ms"), (1.0, "s")):
        if value * factor < 999.5 or unit == "s":
            return f"{value * factor:.3g} {unit}"
    raise AssertionError("seconds have no upper end")


def kind_of(trial: Trial) -> str:
    """What a mark's shape and colour tell."""
    return "reference" if trial.number == 0 else trial.precision


def confidence(outcome: Outcome) -> float:
    """The level of the run's intervals."""
    return float(outcome.budget.get("confidence", 0.95))


def _score(outcome: Outcome, trial: Trial) -> Interval:
    """The metric with the interval of its drop against the reference."""
    assert trial.metric is not None and outcome.reference.metric is not None
    drop = trial.verdict.drop if trial.verdict and trial.number else None
    if drop is None:
        return Interval(trial.metric, trial.metric, trial.metric)
    reference = outcome.reference.metric
    return Interval(trial.metric, reference - drop.high, reference - drop.low, drop.confidence)


def _latency_axis(intervals: list[Interval], paper: Paper) -> Axis:
    low, high = min(i.low for i in intervals), max(i.high for i in intervals)
    # one point alone still gets an axis with two ticks on it
    low, high = min(low / 1.15, high / 2), max(high * 1.15, low * 2)
    room = (high / low) ** 0.06
    return Axis(low / room, high * room, paper.left, paper.width - paper.right, log=True)


def _metric_axis(outcome: Outcome, intervals: list[Interval], paper: Paper) -> Axis:
    reference, allowed = outcome.reference.metric or 0.0, outcome.budget["max_drop"]
    least = max(allowed, 1e-6 * max(abs(reference), 1.0))
    low = max(min(i.low for i in intervals), reference - ROOM_BELOW * least)
    low = min(low, reference - 1.25 * least)
    high = min(max(i.high for i in intervals), reference + ROOM_BELOW * least)
    room = 0.06 * (high - low)
    return Axis(low - room, high + room, paper.height - paper.bottom, paper.top)


def _label(place: tuple[float, float], taken: list[tuple[float, float]], paper: Paper) -> tuple[float, float, str]:
    """Find a place for the trial's number beside its mark that no other number has."""
    x, y = place
    options = [(dx, dy, anchor) for dy in (-7, 15, -20, 28, -33) for dx, anchor in ((9, "start"), (-9, "end"))]
    for dx, dy, anchor in options:
        at = (x + dx, y + dy)
        inside = paper.left + 12 < at[0] < paper.width - 16 and paper.top < at[1] < paper.height - paper.bottom - 2
        if inside and all(abs(at[0] - a) > 17 or abs(at[1] - b) > 11 for a, b in taken):
            return at[0], at[1], anchor
    dx, dy, anchor = options[0]
    return x + dx, y + dy, anchor


def _steps(points: list[tuple[float, float]]) -> str:
    """The front as stairs: between two points nothing better was found than the left one."""
    if not points:
        return ""
    path = f"M{points[0][0]} {points[0][1]}"
    for x, y in points[1:]:
        path += f"H{x}V{y}"
    return path


def _tick(value: float, metric: str) -> str:
    return f"{value * 100:.4g} %" if metric in words.FRACTIONS else f"{value:.5g}"


def _describe(outcome: Outcome, trial: Trial, latency: Interval, score: Interval, shipped: int | None) -> str:
    parts = [f"{trial.number}: {trial.label}", f"latency {words.latency(latency)}"]
    parts.append(f"{outcome.metric} {words.metric(score.value, outcome.metric)}")
    if trial.number and trial.verdict and trial.verdict.drop:
        parts.append(f"drop {words.drop_interval(trial.verdict.drop, outcome.metric)}")
    if trial.number == shipped:
        parts.append("shipped for this batch size")
    elif trial.number in outcome.front:
        parts.append("on the front")
    if trial.state != "measured":
        parts.append(f"{trial.state}: {trial.reason}")
    return "; ".join(parts)


def _summary(outcome: Outcome, batch_size: int, count: int) -> str:
    text = f"{count} trials at batch {batch_size}, latency on a log axis against {outcome.metric} on validation"
    if batch_size in outcome.choices:
        text += f"; shipped: {outcome.trial(outcome.choices[batch_size].shipped).label}"
    return text

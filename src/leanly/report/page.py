"""The page: what the template shows, taken from an outcome and written in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leanly.artifact import EAGER
from leanly.families.keeping import kept_network
from leanly.measurement.records import Interval, Measurement
from leanly.report.bars import latency_bars
from leanly.report.draws import calibration_spread
from leanly.report.environment import environment
from leanly.report.layers import kernel_counts, layers
from leanly.report.plot import NARROW, SHAPES, WIDE, confidence, pareto_plot
from leanly.search import words
from leanly.search.folder import RunFolder
from leanly.search.outcome import Outcome
from leanly.search.trial import Trial

KINDS = {
    "reference": "float32, eager PyTorch (the reference)",
    "float32": "float32",
    "bfloat16": "bfloat16",
    "int8": "int8",
}


@dataclass(frozen=True)
class Row:
    """One trial in a table, every figure in words."""

    number: int
    role: str
    label: str
    state: str
    reason: str
    metric: str
    drop: str
    verdict: str
    certified: str
    latency: list[str]
    bytes: str
    memory: str
    opening: str
    seconds: str
    shipped: bool


def page(outcome: Outcome) -> str:
    """Return the report as one HTML page that fetches nothing.

    Args:
        outcome: of a run, ended or not.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    return environment().get_template("page.html").render(**context(outcome))


def context(outcome: Outcome) -> dict[str, Any]:
    """Return what the template needs."""
    sizes = list(outcome.reference.latency)
    plots = [(size, [pareto_plot(outcome, size, paper) for paper in (WIDE, NARROW)]) for size in sizes]
    return {
        "outcome": outcome,
        "verdict": outcome.sentence.partition(". "),
        "status": status(outcome),
        "sizes": sizes,
        "before_after": before_after(outcome, sizes),
        "bars": [latency_bars(_roles(outcome, size), size, confidence(outcome)) for size in sizes],
        "plots": [(size, papers) for size, papers in plots if papers[0] is not None],
        "legend": [(KINDS[kind], shape) for kind, shape in SHAPES.items() if _has_kind(outcome, kind)],
        "rows": [_row(outcome, trial, sizes, "") for trial in outcome.trials if trial.measurement or trial.artifact],
        "given_up": [_row(outcome, trial, sizes, "") for trial in outcome.trials if trial.state != "measured"],
        "shipped": _shipped(outcome),
        "facts": facts(outcome),
        "level": words.percent(confidence(outcome)),
        "words": words,
    }


def call_of(step: dict[str, Any]) -> str:
    """Write a pass as it is called, without settings that are None; of a table its layers are counted."""
    given = ", ".join(f"{name}={_value(value)}" for name, value in step.items() if name != "pass" and value is not None)
    return f"{step['pass']}({given})"


def _value(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("layers"), dict):
        return f"a table of {len(value['layers'])} layers"
    if isinstance(value, dict):
        return f"({', '.join(f'{name}={_value(one)}' for name, one in value.items() if one is not None)})"
    return repr(value)


def status(outcome: Outcome) -> tuple[str, str]:
    """Return the state of the run as a word for the style and a word for people."""
    if not outcome.finished:
        return "open", "not ended"
    if not outcome.best_by_batch:
        return "bad", "nothing certified"
    if outcome.missed:
        return "bad", "budget not met"
    if outcome.test is None:
        return "open", "not certified"
    return "good", "certified"


def _roles(outcome: Outcome, only: int | None = None) -> list[tuple[str, Trial]]:
    """The trials that the story (of one batch size) is about: as it came, the fastest float, what is shipped."""
    roles: dict[int, dict[str, list[int]]] = {outcome.reference.number: {"before": []}}
    for role, by_batch in (("fastest float", outcome.float_by_batch), ("shipped", outcome.shipped_by_batch)):
        for size, trial in by_batch.items():
            if only not in (None, size):
                continue
            roles.setdefault(trial.number, {}).setdefault(role, []).append(size)
    every = len(outcome.choices)
    return [
        (", ".join(_role(role, sizes, every) for role, sizes in found.items()), outcome.trial(number))
        for number, found in roles.items()
    ]


def _role(role: str, sizes: list[int], every: int) -> str:
    return role if len(sizes) in (0, every) else f"{role} at batch {' and '.join(map(str, sizes))}"


def before_after(outcome: Outcome, sizes: list[int]) -> list[Row]:
    """Return the rows of the first table."""
    return [_row(outcome, trial, sizes, role) for role, trial in _roles(outcome)]


def _row(outcome: Outcome, trial: Trial, sizes: list[int], role: str) -> Row:
    measured = trial.proof if role and trial.proof else trial.measurement
    verdict = trial.certified if role and trial.certified else trial.verdict
    drop = verdict.drop if verdict and trial.number else None
    timing = trial.measurement
    return Row(
        number=trial.number,
        role=role,
        label=trial.label,
        state=trial.state,
        reason=trial.reason,
        metric=_metric(measured, outcome.metric),
        drop=words.drop_interval(drop, outcome.metric) if drop else ("0 by definition" if trial.number == 0 else "-"),
        verdict="reference" if trial.number == 0 else trial.verdict.outcome if trial.verdict else "-",
        certified=trial.certified.outcome if trial.certified else "-",
        latency=[words.latency(_interval(outcome, trial, size)) if size in trial.latency else "-" for size in sizes],
        bytes=words.size(timing.artifact_bytes) if timing else "-",
        memory=words.size(timing.peak_memory_bytes) if timing and timing.peak_memory_bytes is not None else "-",
        opening=words.seconds(timing.open_seconds) if timing else "-",
        seconds=words.seconds(trial.seconds) if trial.seconds else "-",
        shipped=any(choice.shipped == trial.number for choice in outcome.choices.values()),
    )


def _interval(outcome: Outcome, trial: Trial, size: int) -> Interval:
    return trial.latency[size].interval(confidence(outcome))


def _metric(measurement: Measurement | None, name: str) -> str:
    if measurement is None or measurement.metric is None:
        return "-"
    return f"{words.metric(measurement.metric, name)} on {measurement.split}"


def _has_kind(outcome: Outcome, kind: str) -> bool:
    return kind == "reference" or any(trial.precision == kind and trial.number for trial in outcome.trials)


def _shipped(outcome: Outcome) -> list[dict[str, Any]]:
    """What each shipped artifact is made of, layer by layer."""
    chosen: dict[int, list[int]] = {}
    for size, trial in outcome.shipped_by_batch.items():
        chosen.setdefault(trial.number, []).append(size)
    shown = []
    for number, sizes in chosen.items():
        trial = outcome.trial(number)
        if trial.artifact is None:
            continue
        folder = RunFolder(outcome.run)
        network = kept_network(folder.graphs, trial.recipe) if trial.candidate.network else None
        shown.append(
            {
                "trial": trial,
                "sizes": " and ".join(map(str, sizes)),
                "layers": layers(folder.graph, network, trial.artifact),
                "kernels": kernel_counts(trial.artifact),
                "storage_only": words.storage_only(trial.artifact),
                "recipe": [call_of(step) for step in trial.recipe.to_json()],
                "notes": [note for note in trial.artifact.notes if note != EAGER],
                "plans": {size: trial.artifact.plans[size] for size in sizes if size in trial.artifact.plans},
            }
        )
    return shown


def facts(outcome: Outcome) -> list[tuple[str, str]]:
    """Return machine, versions, budget and target as pairs of a name and a value."""
    machine, budget, target = outcome.machine, outcome.budget, outcome.target
    found = [
        ("processor", machine.get("processor", "")),
        ("cores", str(machine.get("cores", ""))),
        ("memory", words.size(machine["memory_bytes"]) if machine.get("memory_bytes") else ""),
        ("instruction sets", ", ".join(machine.get("isa", []))),
        ("CUDA device", machine.get("cuda", "")),
        ("system", machine.get("os", "")),
        ("threads of a call", str(target.get("threads", ""))),
        ("allowed drop", words.drop(budget["max_drop"], outcome.metric)),
        ("confidence", words.percent(budget["confidence"])),
        ("wanted speed-up", f"{budget['speedup']:g}x" if budget.get("speedup") else ""),
        ("allowed bytes", words.size(budget["bytes"]) if budget.get("bytes") else ""),
        ("allowed latency", words.seconds(budget["latency"]) if budget.get("latency") else ""),
        ("time asked and taken", f"{words.seconds(budget['time'])}, {words.seconds(outcome.seconds)}"),
    ]
    for trial in {trial.number: trial for trial in outcome.shipped_by_batch.values()}.values():
        if trial.artifact is not None:
            found.append(
                (
                    f"payload, {trial.label}",
                    f"{words.size(trial.artifact.payload_bytes)}: stored tensors, entropy-coded",
                )
            )
    for trial, metrics in calibration_spread(outcome.trials):
        low, high = (words.metric(end(metrics), outcome.metric) for end in (min, max))
        found.append((f"{len(metrics)} calibration draws, {trial.label}", f"{low} to {high} on validation"))
    if outcome.test is not None:
        found.append(("test split", f"{outcome.test['rows']:,} rows, SHA-256 {outcome.test['digest'][:16]}..."))
        found.append(("uses of the test split, here and in runs beside", str(outcome.test["uses"])))
    found += [(f"version of {name}", version) for name, version in outcome.versions.items()]
    return [(name, value) for name, value in found if value]

"""`leanly demo`"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leanly.cli.ending import end
from leanly.cli.options import Threads, read_target
from leanly.cli.tables import table
from leanly.errors import RunError

if TYPE_CHECKING:
    from leanly.pipeline import Result
    from leanly.search import Trial
    from leanly.task import Task

BATCH_SIZES = "1,16"


class Model(Enum):
    """Which model the demo works on."""

    CNN = "cnn"
    RESNET = "resnet"
    BERT = "bert"


TIMES = {Model.CNN: "2min", Model.RESNET: "3min", Model.BERT: "5min"}
"""As long as two slow cores take to teach a smaller network; to export one alone takes up to ten seconds."""
_TIMES_TOLD = ", ".join(f"{model.value} {time}" for model, time in TIMES.items())


@dataclass(frozen=True)
class Demo:
    """A task made on the spot, and the budget that its data can certify."""

    task: Task
    max_drop: str


def demo(
    model: Annotated[
        Model, typer.Option(help="cnn, resnet: on digits, trained here; bert: MiniLM on sentence pairs.")
    ] = Model.CNN,
    time: Annotated[
        str, typer.Option(help=f"How long the search may take; by default {_TIMES_TOLD}.", show_default=False)
    ] = "",
    threads: Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; by default runs/demo, or runs/demo-MODEL.", show_default=False),
    ] = None,
) -> None:
    """Make a model, find the fastest artifact of it on this machine, show before and after. Downloads nothing.

    Writes report.html and the bundle model.leanly into the folder.
    """
    from leanly.budget import Budget

    folder = out or Path("runs/demo" if model is Model.CNN else f"runs/demo-{model.value}")
    seconds = Budget(time=time or TIMES[model]).seconds
    target = read_target(threads, BATCH_SIZES)
    target.allowed()
    _make_room(folder)

    from leanly.pipeline import optimize

    if model is Model.BERT:
        from leanly.cli.demo_pairs import make

        made = make()
    else:
        from leanly.cli.demo_digits import SmallCNN, SmallResNet
        from leanly.cli.demo_digits import make as make_digits

        made = make_digits(SmallCNN() if model is Model.CNN else SmallResNet())
    budget = Budget(max_drop=made.max_drop, time=seconds)
    result = optimize(made.task, budget, target, out=folder)
    print(f"\n{before_and_after(result)}\n")
    if gains := what_smaller_added(result):
        print(f"{gains}\n")
    end(result, folder, folder / "model.leanly")


def before_and_after(result: Result) -> str:
    """Return a table: the model as it came, its fastest float artifact, and what is shipped."""
    from leanly.search import words

    shown: dict[int, tuple[str, Trial]] = {result.reference.number: ("before", result.reference)}
    for trial in result.float_by_batch.values():
        shown.setdefault(trial.number, ("fastest float", trial))
    for size, trial in result.shipped_by_batch.items():
        if trial.candidate.network:
            whole = fastest_whole(result, size)
            shown.setdefault(whole.number, ("fastest whole", whole))
    for trial in result.shipped_by_batch.values():
        role, _ = shown.get(trial.number, ("", trial))
        shown[trial.number] = (f"{role}, after" if role and "after" not in role else role or "after", trial)
    sizes = list(result.shipped_by_batch)
    rows = []
    for role, trial in shown.values():
        measured = trial.measurement
        rows.append([
            role,
            trial.label,
            _score(trial, result.metric, result.test),
            *[words.latency(trial.latency[size].interval()) if size in trial.latency else "-" for size in sizes],
            words.size(measured.artifact_bytes) if measured else "-",
            words.size(measured.peak_memory_bytes) if measured and measured.peak_memory_bytes is not None else "-",
        ])  # fmt: skip
    header = [
        "",
        "what",
        f"{result.metric} on test",
        *[f"batch {size}, median" for size in sizes],
        "artifact",
        "memory",
    ]
    note = "In brackets: 95 % intervals. Memory: growth of the process's peak from opening and running it."
    return f"{table(header, rows)}\n{note}"


def fastest_whole(result: Result, size: int) -> Trial:
    """Return the fastest artifact of the whole network that was timed at the end and not found outside the budget."""
    whole = [
        trial
        for trial in result.trials
        if trial.final and not trial.candidate.network and trial.outcome in ("pass", "undecided", "")
    ]
    return min(whole, key=lambda trial: trial.final[size].median)


def what_smaller_added(result: Result) -> str:
    """Return what a smaller network gained over the whole network's fastest artifact; empty where nothing did."""
    from leanly.measurement.statistics import ratio_intervals
    from leanly.search import words

    lines = []
    for size, trial in result.shipped_by_batch.items():
        if trial.candidate.network:
            whole = fastest_whole(result, size)
            ratio = ratio_intervals({size: whole.final[size]}, {size: trial.final[size]}, 0.95)[1]
            lines.append(
                f"Batch {size}: the smaller network ({trial.candidate.network}) is {words.times(ratio)} faster than "
                f"{whole.label}, the fastest of the whole network."
            )
    return "\n".join(lines)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the ends of the 95 % score interval of a share (Wilson 1927)."""
    z = 1.959963984540054
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return middle - half, middle + half


def _score(trial: Trial, metric: str, test: dict[str, object] | None) -> str:
    from leanly.search import words

    if trial.proof is None or trial.proof.metric is None:
        return "not scored"
    text = words.metric(trial.proof.metric, metric)
    rows = test.get("rows") if test else None
    if metric == "accuracy" and isinstance(rows, int):
        low, high = wilson(trial.proof.metric, rows)
        text += f" ({100 * low:.2f} to {100 * high:.2f})"
    return text


def _make_room(folder: Path) -> None:
    """Take an earlier demo away; a run of anything else is left alone."""
    if not (folder / "run.json").exists():
        return
    try:
        name = json.loads((folder / "run.json").read_text())["task"]["name"]
    except (ValueError, KeyError, TypeError, OSError):
        name = None
    if not isinstance(name, str) or not name.startswith("demo: "):
        raise RunError(
            "a run that is not the demo's lies there", where=str(folder), remedy="name another folder with --out"
        )
    shutil.rmtree(folder)

"""The one call: a task, a budget and a target go in, a result with its proof comes out."""

from __future__ import annotations

import dataclasses
import functools
import html
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanly.budget import Budget
from leanly.errors import DataError, LeanlyWarning, SettingError
from leanly.files import write_bytes
from leanly.machine import busy_share
from leanly.search import words
from leanly.search.driver import Search
from leanly.search.finale import Finale, finish
from leanly.search.folder import RunFolder, begin_run, check_run, count_test_uses, describe_run
from leanly.search.forecast import Forecast
from leanly.search.journal import Journal
from leanly.search.outcome import Outcome, open_outcome
from leanly.search.progress import Lines, Live
from leanly.search.protocols import CertifyingSplit
from leanly.search.replay import MEASUREMENT, PROOF, past_trials
from leanly.search.sentence import verdict_sentence
from leanly.target import Target

if TYPE_CHECKING:
    from leanly.bundle.signing import Key
    from leanly.graph import Graph
    from leanly.task import Task


BUSY = 0.25
"""Share of the processors above which other programs are told of."""


@dataclass(frozen=True, repr=False)
class Result(Outcome):
    """What `optimize` gives back: an outcome that makes the report and the bundle."""

    @staticmethod
    def open(run: str | Path) -> Result:
        """Read the result of a run folder again.

        Raises:
            RunError: it is no run, or it is damaged.
        """
        return _result(open_outcome(run))

    def report(self, path: str | Path) -> Path:
        """Write the report, one HTML file that needs nothing else."""
        from leanly.report import page

        path = Path(path)
        write_bytes(path, page(self).encode())
        return path

    def save(self, path: str | Path, key: Key | None = None) -> Path:
        """Write the bundle: for each batch size the best artifact, or the fastest float one where nothing is certified.

        Args:
            path: the folder to make.
            key: private key that signs.

        Raises:
            RunError: the run has not ended, or the folder can't be written.
        """
        from leanly.bundle import save
        from leanly.families.keeping import kept_network
        from leanly.graph import Graph

        if not self.choices:
            from leanly.errors import RunError

            raise RunError(
                "the run has not ended", where=str(self.run), remedy="go on with it: resume=True, or --resume"
            )
        artifacts = {size: trial.artifact for size, trial in self.shipped_by_batch.items() if trial.artifact}
        folder = RunFolder(self.run)
        # what can be trained further: the network that is shipped, not the one it came from
        first = next(iter(self.shipped_by_batch.values()))
        network = kept_network(folder.graphs, first.recipe) if first.candidate.network else None
        graph = network or folder.graph
        with tempfile.TemporaryDirectory(prefix="leanly-") as temporary:
            raw = Path(temporary) / "measurements"
            _collect(self, folder, raw)
            return save(
                path,
                artifacts=artifacts,
                document=_document(self),
                graph=Graph.open(graph).without_rows() if graph.exists() else None,
                measurements=raw,
                key=key,
            )

    def _repr_html_(self) -> str:
        head = ["", self.metric, *(f"batch {size}" for size in self.choices), "verdict"]
        rows = []
        shown = {trial.number: trial for trial in (self.reference, *self.pareto, *self.shipped_by_batch.values())}
        for trial in shown.values():
            latencies = [
                words.seconds(trial.latency[size].median) if size in trial.latency else "-" for size in self.choices
            ]
            verdict = trial.certified or trial.verdict
            said = "reference" if trial.number == 0 else verdict.outcome if verdict else "-"
            rows.append([trial.label, words.metric(trial.metric, self.metric), *latencies, said])
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
        return (
            f"<p>{html.escape(self.sentence)}</p><table><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table>"
        )


def optimize(
    task: Task,
    budget: Budget | None = None,
    target: Target | None = None,
    *,
    out: str | Path,
    resume: bool = False,
    seed: int = 0,
    smaller: bool = True,
) -> Result:
    """Find the fastest artifact of a model inside a budget on this machine.

    Ctrl-C ends the search and finishes with what was measured; a second one stops at once. A run that was killed goes
    on with `resume=True`.

    Args:
        task: the model, its data and its metric.
        budget: what may be spent; default a drop of 0.01 and ten minutes.
        target: where it will run; default this machine at batch size 1.
        out: folder of the run.
        resume: go on with the run that lies in `out`.
        seed: of the order in which artifacts take turns.
        smaller: also try smaller networks, taught by the model, where the task has training rows.

    Raises:
        DataError: the task can't be used.
        CaptureError: the model can't be captured.
        RunError: `out` can't be written, or holds a run of something else.
    """
    budget, target = budget or Budget(), target or Target()
    _check_kinds(task, budget, target)
    forecast = Forecast(budget.seconds, time.monotonic)
    validation = task.split("validation")
    if validation is None:
        raise DataError(
            "the task has no validation split, which steers the search",
            where="Task",
            remedy="give validation=(inputs, targets)",
        )
    target.allowed()
    folder = RunFolder(Path(out))
    about = describe_run(
        fingerprint=task.fingerprint(),
        name=task.name,
        metric=task.metric.name,
        budget=budget,
        target=target,
        seed=seed,
    )
    check_run(folder, about, resume=resume)
    task.check()
    _say_whether_it_can_certify(task, budget)
    begin_run(folder, about)
    with Journal(folder.journal) as journal:
        return _run(task, budget, target, folder, journal, forecast, seed, smaller)


def _check_kinds(task: object, budget: object, target: object) -> None:
    from leanly.task import Task

    for name, value, kind in (("task", task, Task), ("budget", budget, Budget), ("target", target, Target)):
        if not isinstance(value, kind):
            raise SettingError(
                f"{name} is a {type(value).__name__}", where="optimize", remedy=f"give a leanly.{kind.__name__}"
            )


def _run(
    task: Task,
    budget: Budget,
    target: Target,
    folder: RunFolder,
    journal: Journal,
    forecast: Forecast,
    seed: int,
    smaller: bool,
) -> Result:
    from leanly.families.networks import Networks
    from leanly.measurement.attribution import node_times
    from leanly.search.instruments import Bench

    metric = task.metric.name
    listener = Live(metric, lambda: forecast.left) if sys.stderr.isatty() else Lines(metric)
    try:
        listener.begin("capturing the model", 0.0, forecast.left)
        graph = _captured(task, folder)
        past = past_trials(journal.events, folder.path)
        with Bench(task, target, budget, seed=seed, note=forecast.see) as bench:
            search = Search(
                family=Networks(
                    graph,
                    task,
                    target,
                    folder.graphs,
                    smaller=smaller,
                    past=past,
                    max_drop=budget.max_drop,
                    confidence=budget.confidence,
                    max_bytes=budget.bytes,
                    timed=functools.partial(node_times, task, target),
                ),
                instruments=bench.instruments(),
                budget=budget,
                batch_sizes=target.batch_sizes,
                folder=folder,
                journal=journal,
                forecast=forecast,
                listener=listener,
                test=_certifying(task),
                past=past,
            )
            if (share := busy_share()) > BUSY:
                search.notes.append(
                    f"other programs kept {share:.0%} of the processors busy when the run began: latencies are longer "
                    "and less certain than on a quiet machine"
                )
                listener.say(search.notes[-1])
            search.explore()
            finale = finish(search)
        outcome = _outcome(task, search, finale)
        outcome = dataclasses.replace(outcome, sentence=verdict_sentence(outcome))
        outcome.save()
        journal.write("end", sentence=outcome.sentence)
    finally:
        listener.close()
    return _result(outcome)


def _captured(task: Task, folder: RunFolder) -> Graph:
    from leanly.graph import capture

    graph = capture(task.model, example=task.example, dynamic=task.dynamic, static=tuple(task.static)).eval()
    if not folder.graph.exists():
        graph.save(folder.graph)
    return graph


def _certifying(task: Task) -> CertifyingSplit | None:
    test, validation = task.split("test"), task.split("validation")
    if test is None or validation is None:
        return None
    return CertifyingSplit(test.digest, len(test), len(test) / len(validation))


def _say_whether_it_can_certify(task: Task, budget: Budget) -> None:
    from leanly.measurement.judge import can_certify

    split = task.split("test") or task.split("validation")
    if split is not None and (text := can_certify(len(split), budget, task.metric)):
        warnings.warn(f"Split {split.name!r}: {text}.", LeanlyWarning, stacklevel=3)


def _outcome(task: Task, search: Search, finale: Finale) -> Outcome:
    about: Mapping[str, Any] = search.folder.read()
    test = None
    if search.test is not None:
        uses = count_test_uses(search.folder.path, search.test.digest)
        test = {"digest": search.test.digest, "rows": search.test.rows, "uses": uses}
    return Outcome(
        run=search.folder.path,
        task=task.name,
        metric=task.metric.name,
        budget=about["budget"],
        target=about["target"],
        machine=about["machine"],
        versions=about["versions"],
        trials=tuple(search.trials),
        front=finale.front,
        walk=tuple(finale.walk),
        choices=finale.choices,
        speedup=finale.speedup,
        test=test,
        missed=finale.missed,
        notes=tuple(search.notes),
        seconds=search.forecast.spent,
        finished=True,
    )


def _result(outcome: Outcome) -> Result:
    return Result(**{field.name: getattr(outcome, field.name) for field in dataclasses.fields(Outcome)})


def _document(result: Result) -> dict[str, Any]:
    """What `bundle.json` says: enough to know what it is without the raw samples."""
    shipped = {trial.number: trial for trial in result.shipped_by_batch.values()}
    return {
        "task": result.task,
        "metric": result.metric,
        "sentence": result.sentence,
        "certified": result.certified,
        "met": result.met,
        "missed": list(result.missed),
        "notes": list(result.notes),
        "budget": result.budget,
        "target": result.target,
        "machine": result.machine,
        "versions": result.versions,
        "test": result.test,
        "best": {str(size): choice.best for size, choice in result.choices.items()},
        "speedup": result.speedup.to_json() if result.speedup else None,
        "choices": [dataclasses.asdict(choice) for choice in result.choices.values()],
        "trials": {
            str(number): {
                "label": trial.label,
                "recipe": trial.recipe.to_json(),
                "runtime": trial.runtime,
                "precision": trial.precision,
                "verdict": trial.verdict.to_json() if trial.verdict else None,
                "certified": trial.certified.to_json() if trial.certified else None,
            }
            for number, trial in shipped.items()
        },
    }


def _collect(result: Result, folder: RunFolder, to: Path) -> None:
    """Copy the outcome and the raw measurements of what is shipped and of what it is compared with."""
    to.mkdir()
    shutil.copyfile(folder.outcome, to / folder.outcome.name)
    shown = (result.reference, *result.shipped_by_batch.values(), *result.float_by_batch.values())
    for number in sorted({trial.number for trial in shown}):
        (to / f"{number:03d}").mkdir()
        for stem in (Path(MEASUREMENT).stem, Path(PROOF).stem):
            for file in folder.trial(number).glob(f"{stem}.*"):
                shutil.copyfile(file, to / f"{number:03d}" / file.name)

"""What leanly makes of a network: the one call, as a user makes it, on the rows that calibrate the peers too."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import leanly
from bench.contest import Ground
from bench.entrants import BATCHES, THREADS, Entrant
from bench.models.subjects import Rows
from bench.peers import work
from bench.rows import cached, code_version
from bench.scores import MEAN_COSINE
from leanly.artifact import Artifact, Plan
from leanly.files import digest

FAMILY = "leanly"
MAX_DROP = {"accuracy": "1%", "agreement": "1%", "spearman": "1%"}
"""Of accuracy, or of the cosine with the float outputs, where 250 rows could not certify an accuracy."""


def optimize(
    ground: Ground, data_dir: Path, *, time: str, seed: int, smaller: bool = False
) -> tuple[dict[int, Entrant], dict[str, Any]]:
    """Run `leanly.optimize` once and keep what it ships for each batch size.

    Args:
        ground: the subject and its rows.
        data_dir: where the weights are.
        time: leanly's budget of time.
        seed: of the search.
        smaller: train on all rows and let smaller networks in; else the same network for all: what integers gain.

    Returns:
        The artifacts by batch size, and facts about the run: its sentence, its trials, its seconds.
    """
    subject = ground.subject
    key = {
        "subject": subject.name,
        "time": time,
        "seed": seed,
        "smaller": smaller,
        "code": code_version(),
        "threads": THREADS,
        "max_drop": MAX_DROP[subject.measure],
        "versions": leanly.Target("cpu", threads=THREADS).versions(),
    }
    out = work(subject) / "leanly" / digest(key)[:16]

    def run() -> dict[str, Any]:
        if out.exists():
            shutil.rmtree(out)
        rows = subject.train(data_dir) if smaller and subject.train else subject.calibration(data_dir)
        result = leanly.optimize(
            task(ground, rows, subject.model(data_dir)),
            leanly.Budget(max_drop=MAX_DROP[subject.measure], confidence=0.95, time=time),
            leanly.Target("cpu", threads=THREADS, batch_sizes=BATCHES),
            out=out,
            seed=seed,
            smaller=smaller,
        )
        chosen = {}
        for size in BATCHES:
            trial = result.best_by_batch.get(size) or result.shipped_by_batch[size]
            artifact = trial.artifact
            assert artifact is not None, "what is shipped was measured"
            plans = {str(batch): dataclasses.asdict(plan) for batch, plan in artifact.plans.items()}
            folder = str(Path(artifact.folder).resolve().relative_to(out.resolve()))
            chosen[str(size)] = {"label": trial.label, "folder": folder, "plans": plans}
        trials = [
            {"label": trial.label, "state": trial.state, "reason": trial.reason, "metric": trial.metric}
            for trial in result.trials
        ]
        return {"chosen": chosen, "sentence": result.sentence, "seconds": result.seconds, "trials": trials}

    facts = cached(f"leanly-{subject.name}", key, run)
    found: dict[int, Entrant] = {}
    for size, choice in facts["chosen"].items():
        plans = {int(batch): Plan(**plan) for batch, plan in choice["plans"].items()}
        artifact = Artifact.open(out / choice["folder"]).with_plans(plans)
        found[int(size)] = Entrant(FAMILY, choice["label"], artifact, f"leanly/{choice['folder']}")
    return found, facts


def task(ground: Ground, train: Rows, model: Any) -> leanly.Task:
    """Sentences and crops are judged by how close their outputs stay to those of the float network, row by row."""
    subject = ground.subject
    by_label = subject.measure == "accuracy"
    rows: dict[str, tuple[Rows, Any]] = {
        "validation": (ground.validation, ground.float_validation),
        "test": (ground.test, ground.float_test),
    }
    splits = {name: (inputs_of(part), part.targets if by_label else outputs) for name, (part, outputs) in rows.items()}
    metric: str | Callable[..., float] | Any = "accuracy" if by_label else MEAN_COSINE
    return leanly.Task(
        model,
        example=tuple(array[:2] for array in train.inputs),
        train=(inputs_of(train), train.targets),
        validation=splits["validation"],
        test=splits["test"],
        metric=metric,
        loss="cross_entropy" if by_label else "mse",
        name=subject.name,
    )


def inputs_of(rows: Rows) -> Any:
    """Return the one input, or all of them, as a task takes them."""
    first, *others = rows.inputs
    return rows.inputs if others else first

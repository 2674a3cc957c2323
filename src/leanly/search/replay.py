"""Trials written to the journal and read back; a trial whose files are not whole is tried again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from leanly.artifact import Artifact, Plan
from leanly.errors import LeanlyError, RunError
from leanly.families.candidate import Candidate
from leanly.files import inside
from leanly.measurement.records import Interval, Latency, Measurement, Verdict
from leanly.recipe import Recipe
from leanly.search.journal import Journal
from leanly.search.trial import Trial

TRIAL = "trial"
MEASUREMENT = "measurement.json"
PROOF = "proof.json"


def write_trial(journal: Journal, trial: Trial, root: Path) -> None:
    """Write one line: the trial without its samples and predictions, which lie in its folder."""
    journal.write(TRIAL, **trial_json(trial, root))


def trial_json(trial: Trial, root: Path) -> dict[str, Any]:
    """Return a trial as data, its files named relative to the run."""
    candidate = trial.candidate
    return {
        "number": trial.number,
        "key": candidate.key,
        "label": candidate.label,
        "network": candidate.network,
        "recipe": candidate.recipe.to_json(),
        "runtime": candidate.runtime,
        "precision": candidate.precision,
        "rest": candidate.rest,
        "eager": candidate.eager,
        "plans": {str(size): asdict(plan) for size, plan in candidate.plans.items()},
        "state": trial.state,
        "reason": trial.reason,
        "seconds": trial.seconds,
        "artifact": _inside_run(trial.artifact.folder, root) if trial.artifact else None,
        "measured": trial.measurement is not None,
        "proven": trial.proof is not None,
        "metric": trial.metric,
        "verdict": trial.verdict.to_json() if trial.verdict else None,
        "certified": trial.certified.to_json() if trial.certified else None,
        "ratio": {str(size): interval.to_json() for size, interval in trial.ratio.items()},
        "steady": {str(size): seconds for size, seconds in trial.steady.items()},
        "final": [latency.to_json() for latency in trial.final.values()],
    }


def _inside_run(folder: Path, root: Path) -> str:
    return folder.resolve().relative_to(root.resolve()).as_posix()


def read_trial(data: dict[str, Any], root: Path) -> Trial:
    """Read what `trial_json` gave, with its files.

    Raises:
        LeanlyError: the entry is damaged, or its files are not whole.
    """
    try:
        number = int(data["number"])
        candidate = Candidate(
            label=data["label"],
            network=data["network"],
            recipe=Recipe.from_json(data["recipe"]),
            runtime=data["runtime"],
            precision=data["precision"],
            rest=data["rest"],
            eager=data["eager"],
            plans={int(size): Plan(**plan) for size, plan in data["plans"].items()},
        )
        artifact = None
        if data["artifact"]:
            artifact = Artifact.open(inside(root, data["artifact"]))
            for name in artifact.files:
                if not (artifact.folder / name).exists():
                    raise RunError("an artifact has lost a file", where=str(artifact.folder / name))
        folder = root / "trials" / f"{number:03d}"
        return Trial(
            number=number,
            candidate=candidate,
            state=data["state"],
            reason=data["reason"],
            artifact=artifact,
            measurement=Measurement.open(folder / MEASUREMENT) if data["measured"] else None,
            verdict=Verdict.from_json(data["verdict"]) if data["verdict"] else None,
            ratio={int(size): Interval.from_json(entry) for size, entry in data["ratio"].items()},
            steady={int(size): float(seconds) for size, seconds in data.get("steady", {}).items()},
            final={entry["batch_size"]: Latency.from_json(entry) for entry in data["final"]},
            proof=Measurement.open(folder / PROOF) if data["proven"] else None,
            certified=Verdict.from_json(data["certified"]) if data["certified"] else None,
            seconds=float(data["seconds"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"a trial of the run can't be read ({error!r})", where=str(root), remedy="run again") from error


def past_trials(events: list[dict[str, Any]], root: Path) -> dict[str, Trial]:
    """Return the measured trials of a journal whose files are whole, by the key of their candidate.

    Failed ones are left out: what failed once may have failed for a reason that is gone.
    """
    found: dict[str, Trial] = {}
    for event in events:
        if event.get("event") != TRIAL or not event.get("measured"):
            continue
        try:
            trial = read_trial(event, root)
        except LeanlyError:
            found.pop(str(event.get("key")), None)
            continue
        found[trial.candidate.key] = trial
    return found


def all_trials(events: list[dict[str, Any]], root: Path) -> list[Trial]:
    """Return every trial of a journal, the latest line of each number; one with lost files keeps its line only."""
    found: dict[int, Trial] = {}
    for event in events:
        if event.get("event") != TRIAL:
            continue
        try:
            trial = read_trial(event, root)
        except LeanlyError as error:
            lost = {"artifact": None, "measured": False, "proven": False, "state": "failed", "reason": str(error)}
            trial = read_trial({**event, **lost}, root)
        found[trial.number] = trial
    return [found[number] for number in sorted(found)]

"""The folder of a run: what it is a run of, where its trials lie, and how often a test split was used."""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leanly.budget import Budget
from leanly.errors import LeanlyError, LeanlyWarning, RunError
from leanly.files import check_place, make_folder, read_json, write_json
from leanly.search.journal import read_events
from leanly.target import Machine, Target

FORMAT = 1
RUN_FILE = "run.json"
JOURNAL_FILE = "journal.jsonl"
OUTCOME_FILE = "result.json"
TEST_USED = "test split used"
"""The journal's event for each time a certification begins to read the test split."""


@dataclass(frozen=True)
class RunFolder:
    """Where things lie in a run."""

    path: Path

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / JOURNAL_FILE

    @property
    def outcome(self) -> Path:
        """What the run ended in."""
        return self.path / OUTCOME_FILE

    @property
    def graph(self) -> Path:
        """The captured graph."""
        return self.path / "graph"

    @property
    def graphs(self) -> Path:
        """Smaller networks, by the hash of their recipe."""
        return self.path / "graphs"

    def trial(self, number: int) -> Path:
        """The folder of one trial."""
        return self.path / "trials" / f"{number:03d}"

    def read(self) -> dict[str, Any]:
        """Read run.json.

        Raises:
            RunError: it is not a run, it is damaged, or a newer leanly made it.
        """
        file = self.path / RUN_FILE
        try:
            content = read_json(file)
        except LeanlyError as error:
            raise RunError(error.what, where=str(file), remedy="name the folder of a run, or make one") from error
        version = content.get("format") if isinstance(content, dict) else None
        if not isinstance(version, int):
            raise RunError("the file does not describe a run", where=str(file), remedy="name the folder of a run")
        if version > FORMAT:
            raise RunError(
                f"the run has format {version}, this leanly reads up to {FORMAT}",
                where=str(file),
                remedy="install a newer leanly",
            )
        return content

    def has_run(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / RUN_FILE).exists()


def describe_run(
    *, fingerprint: str, name: str, metric: str, budget: Budget, target: Target, seed: int
) -> dict[str, Any]:
    """Return what run.json says.

    Args:
        fingerprint: what tells this task from another.
        name: the task's name, for people.
        metric: the metric's name.
        budget: what may be spent.
        target: where the model will run.
        seed: the seed of the run.
    """
    return {
        "format": FORMAT,
        "task": {"name": name, "fingerprint": fingerprint},
        "metric": metric,
        "budget": asdict(budget),
        "target": asdict(target),
        "machine": machine_json(target.machine),
        "versions": target.versions(),
        "seed": seed,
    }


def check_run(folder: RunFolder, about: dict[str, Any], *, resume: bool) -> None:
    """Check, without writing, that a run may begin or go on in a folder.

    The budget may differ from the older run's, since verdicts are made anew; timings of another target, machine or
    version can't be mixed.

    Args:
        folder: where it lies or will lie.
        about: what its run.json will say.
        resume: go on with the run that lies there.

    Raises:
        RunError: a run lies there and `resume` is off, or it is of another task, target, machine or set of versions;
            or nothing can be written there.
    """
    check_place(folder.path)
    if folder.has_run():
        _check_same(folder.read(), about, folder.path)
        if not resume:
            raise RunError(
                "a run of this task lies there already",
                where=str(folder.path),
                remedy="go on with it (resume=True, or --resume on the command line), or name another `out`",
            )
    elif folder.path.is_dir() and any(folder.path.iterdir()):
        raise RunError(
            "the folder is not empty and holds no run",
            where=str(folder.path),
            remedy="name the folder of a run, or a new one",
        )
    elif resume:
        warnings.warn(f"There is no run in {folder.path}: a new one begins.", LeanlyWarning, stacklevel=3)


def begin_run(folder: RunFolder, about: dict[str, Any]) -> None:
    """Make the folder and write run.json.

    Raises:
        RunError: it can't be written.
    """
    _check_writable(folder.path)
    write_json(folder.path / RUN_FILE, about)


def machine_json(machine: Machine) -> dict[str, Any]:
    """Return the machine as JSON."""
    return {**asdict(machine), "isa": sorted(machine.isa)}


def count_test_uses(run: Path, digest: str) -> int:
    """Count how often a test split was used by the run and by the runs beside it, so that trying until it passes shows.

    Args:
        run: the run's folder.
        digest: the split's hash.
    """
    run = run.resolve()
    try:
        runs = [path for path in run.parent.iterdir() if (path / RUN_FILE).is_file()]
    except OSError:
        runs = [run]
    count = 0
    for path in runs:
        try:
            events, _ = read_events(path / JOURNAL_FILE)
        except (LeanlyError, OSError):
            continue
        count += sum(event.get("event") == TEST_USED and event.get("digest") == digest for event in events)
    return count


def _check_writable(path: Path) -> None:
    make_folder(path)
    try:
        handle, name = tempfile.mkstemp(prefix=".write", dir=path)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise RunError(
            f"the folder can't be written ({error.strerror})", where=str(path), remedy="name a folder you may write to"
        ) from error


def _check_same(before: dict[str, Any], about: dict[str, Any], path: Path) -> None:
    if before["task"]["fingerprint"] != about["task"]["fingerprint"]:
        name = before["task"]["name"] or "unnamed"
        raise RunError(
            f"the run there is of another task ({name}; its model, data or metric differs)",
            where=str(path),
            remedy="name another `out`",
        )
    for key in ("target", "machine", "versions"):
        # the JSON of a tuple is a list
        old, new = _plain(before[key]), _plain(about[key])
        if old != new:
            parts = ", ".join(sorted(part for part in {*old, *new} if old.get(part) != new.get(part)))
            raise RunError(
                f"the run there has another {key} ({parts} differ): its timings can't be compared with new ones",
                where=str(path),
                remedy="name another `out`",
            )


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    return {key: list(entry) if isinstance(entry, tuple) else entry for key, entry in value.items()}

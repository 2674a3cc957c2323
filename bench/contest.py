"""The race of one network: peers are scored and screened, the fastest of each family and leanly run in turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import peers
from bench.entrants import BATCHES, THREADS, Entrant, entrants, outputs_of
from bench.models.subjects import Arrays, Rows, Subject, float_outputs
from bench.peer_ort import onnxruntime
from bench.rows import cached, code_version, versions
from bench.scores import Scale, scale
from leanly.errors import DataError, LoweringError
from leanly.files import sha256
from leanly.measurement.latency import PROCESSES, time_in_turns
from leanly.measurement.records import Latency
from leanly.target import Target

TOGETHER = 12
"""Workers that are open at once while screening."""
PACKAGES = ("onnxruntime", "openvino", "numpy")


@dataclass(frozen=True)
class Settings:
    """How long things are timed.

    Args:
        screening, final: seconds for each pair of artifact and batch size.
        quick: fewer settings of the peers.
        max_drop: peers that lose more than this on validation don't race, as leanly may not lose more either.
    """

    screening: float = 0.4
    final: float = 4.0
    quick: bool = False
    max_drop: float = 0.01


@dataclass(frozen=True)
class Ground:
    """A subject with its rows and what the float network gives for them in eager PyTorch."""

    subject: Subject
    validation: Rows
    test: Rows
    float_validation: np.ndarray
    float_test: np.ndarray

    @property
    def validation_scale(self) -> Scale:
        return scale(self.subject, self.validation, self.float_validation)

    @property
    def test_scale(self) -> Scale:
        return scale(self.subject, self.test, self.float_test)

    def timing_inputs(self) -> dict[int, Arrays]:
        """Rows of validation, the first of them at batch 1 and sixteen at batch 16."""
        return {size: tuple(array[:size] for array in self.validation.inputs) for size in BATCHES}


@dataclass(frozen=True)
class Field:
    """The peers of one network.

    Args:
        finalists: of each family, the fastest at each batch size.
        most_accurate: the int8 peer with the best metric on validation.
        validation: metric on validation of every int8 peer, by label.
        left_out: peers that lose too much to race, by label, with their metric on validation.
        refused: peers whose file the runtime does not open, or that give NaN.
    """

    finalists: tuple[Entrant, ...]
    most_accurate: Entrant
    validation: dict[str, float]
    left_out: dict[str, float]
    refused: tuple[str, ...]


def lay_ground(subject: Subject, data_dir: Path) -> Ground:
    """Read the rows of a subject and run the float network on them, once."""
    rows = {"validation": subject.validation(data_dir), "test": subject.test(data_dir)}
    onnx = sha256(peers.work(subject) / "float.onnx")[:16]
    outputs: dict[str, np.ndarray] = {}
    for name, part in rows.items():
        path = peers.work(subject) / f"float-{name}-{onnx}.npy"
        if not path.exists():
            np.save(path, float_outputs(subject.model(data_dir), part.inputs))
        outputs[name] = np.load(path)
    return Ground(subject, rows["validation"], rows["test"], outputs["validation"], outputs["test"])


def all_entrants(ground: Ground, quick: bool) -> list[Entrant]:
    """List every peer in every way it can be opened; files that are missing are made."""
    subject = ground.subject
    found: list[Entrant] = []
    for peer in (*peers.floats(subject), *onnxruntime(subject, quick), *peers.nncf(subject, quick)):
        found.extend(entrants(subject, ground.validation.inputs, ground.float_validation, peer))
    return found


def choose_field(ground: Ground, settings: Settings) -> Field:
    """Score the int8 peers on validation, time one of each kind, and keep the fastest of each family."""
    everyone = all_entrants(ground, settings.quick)
    scored = {entrant.label: validation_metric(ground, entrant) for entrant in everyone if _is_int8(entrant)}
    refused = tuple(label for label, metric in scored.items() if metric is None)
    validation = {label: metric for label, metric in scored.items() if metric is not None}
    everyone = [entrant for entrant in everyone if entrant.label not in refused]
    reference = ground.validation_scale.score(ground.float_validation)
    if ground.subject.measure == "agreement":
        # Against itself the float network agrees with every row: here the best peer is the measure of what is lost.
        reference = max(validation.values(), default=reference)
    allowance = settings.max_drop if ground.subject.measure != "agreement" else 3 * settings.max_drop
    left_out = {label: metric for label, metric in validation.items() if metric < reference - allowance}
    racing = [entrant for entrant in everyone if entrant.label not in left_out]
    most_accurate = max(filter(_is_int8, everyone), key=lambda entrant: validation[entrant.label])
    best_twins: dict[str, Entrant] = {}
    for entrant in racing:
        other = best_twins.setdefault(entrant.twin, entrant)
        if validation.get(entrant.label, 0.0) > validation.get(other.label, 0.0):
            best_twins[entrant.twin] = entrant
    screened = list(best_twins.values())
    milliseconds = _screen(ground, screened, settings)
    finalists: dict[str, Entrant] = {}
    for family in dict.fromkeys(entrant.family for entrant in screened):
        members = [entrant for entrant in screened if entrant.family == family]
        for size in BATCHES:
            fastest = min(members, key=lambda entrant: milliseconds[entrant.label][str(size)])
            finalists[fastest.label] = fastest
    return Field(tuple(finalists.values()), most_accurate, validation, left_out, refused)


def race(ground: Ground, everyone: Sequence[Entrant], settings: Settings, seed: int) -> dict[str, dict[int, Latency]]:
    """Time all entrants in turns in one run; by label and batch size."""

    def run() -> dict[str, Any]:
        found = time_in_turns(
            [entrant.artifact for entrant in everyone],
            _target(),
            ground.timing_inputs(),
            seconds=settings.final,
            seed=seed,
            processes=PROCESSES,
        )
        pairs = zip(everyone, found, strict=True)
        return {entrant.label: [latency.to_json() for latency in by_size.values()] for entrant, by_size in pairs}

    key = {
        "entrants": [entrant.key for entrant in everyone],
        "labels": [entrant.label for entrant in everyone],
        "seconds": settings.final,
        "seed": seed,
        "versions": versions(*PACKAGES),
        "code": code_version(),
    }
    stored = cached(f"race-{ground.subject.name}", key, run)
    return {
        label: {entry["batch_size"]: Latency.from_json(entry) for entry in latencies}
        for label, latencies in stored.items()
    }


def test_outputs(ground: Ground, entrant: Entrant) -> np.ndarray:
    """Return an entrant's outputs on the test rows; kept under the cache by its files."""
    path = peers.work(ground.subject) / "outputs" / f"{entrant.key}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        np.save(path, outputs_of(entrant.artifact, ground.test.inputs, THREADS))
    return np.load(path)


def validation_metric(ground: Ground, entrant: Entrant) -> float | None:
    """Return an entrant's metric on validation; None when its runtime refuses or it gives NaN."""

    def run() -> float | None:
        try:
            return ground.validation_scale.score(outputs_of(entrant.artifact, ground.validation.inputs, THREADS))
        except (LoweringError, DataError) as error:  # it does not open, or it gives NaN
            print(f"{ground.subject.name}: {entrant.label}: {error}", flush=True)
            return None

    # Static shapes change no number: both share one entry.
    artifact = entrant.artifact.with_plans({})
    key = {
        "files": Entrant("", "", artifact, "").key,
        "rows": len(ground.validation),
        "versions": versions(*PACKAGES),
    }
    return cached(f"validation-{ground.subject.name}", key, run)


def _screen(ground: Ground, screened: Sequence[Entrant], settings: Settings) -> dict[str, dict[str, float]]:
    def run() -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for start in range(0, len(screened), TOGETHER):
            group = screened[start : start + TOGETHER]
            timed = time_in_turns(
                [entrant.artifact for entrant in group], _target(), ground.timing_inputs(), seconds=settings.screening
            )
            for entrant, latencies in zip(group, timed, strict=True):
                found[entrant.label] = {str(size): latency.median * 1e3 for size, latency in latencies.items()}
            print(f"{ground.subject.name}: screened {len(found)} of {len(screened)} peers", flush=True)
        return found

    key = {
        "entrants": [entrant.key for entrant in screened],
        "labels": [entrant.label for entrant in screened],
        "seconds": settings.screening,
        "versions": versions(*PACKAGES),
    }
    return cached(f"screening-{ground.subject.name}", key, run)


def _is_int8(entrant: Entrant) -> bool:
    return entrant.artifact.precision == "int8"


def _target() -> Target:
    return Target("cpu", threads=THREADS, batch_sizes=BATCHES)


def fastest(latencies: dict[str, dict[int, Latency]], labels: Iterable[str], size: int) -> str:
    """Return the label with the lowest median at a batch size."""
    return min(labels, key=lambda label: latencies[label][size].median)

"""Few bits after training, no labels: leanly reconstructs, brevitas learns its roundings; same rows, same bits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import leanly
from bench import peers
from bench.data import CACHE
from bench.entrants import THREADS, outputs_of
from bench.models.plain_lite import plain
from bench.models.subjects import SUBJECTS, Subject, float_outputs, spread
from bench.rows import Row, cached, code_version, versions
from leanly.files import replacing
from leanly.measurement.records import Interval
from leanly.quantize import Reconstruct, Static
from leanly.recipe import Recipe

SAMPLES = 1024
"""Training rows, without their labels, that leanly and the peer see alike."""
SEEDS = 3
DRAWS = 2000
BLOCKS = {"resnet20": 3, "resnet56": 9, "lite0": 0}
"""Of a stage of the CIFAR ResNets, as the peer's script asks; 0 is EfficientNet-Lite0."""
FEWER = {"lite0": 10}
"""By what both sides' steps are divided, where images of 224 x 224 make each take as much longer."""
RANGES, SHORT, LONG = ("stats", "mse"), 1000, 10_000
"""How the peer finds its ranges, and how long it learns a layer's roundings: with the better ranges long as well, and
the best on validation stands for it."""
ITERATIONS = 4000
KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**35)}
"""glibc would give large tensors back to the system after each step, which takes longer than the step itself."""


@dataclass(frozen=True)
class Case:
    """Bits of weights, of activations, and of the first and last layer's weights; the aim is a share of the peer's.

    What those two layers read has as many bits as their weights, or as the other activations, whichever is more.
    """

    name: str
    weights: int
    activations: int
    ends: int
    networks: tuple[str, ...] = ("resnet20", "resnet56")
    share: float = 0.5


CASES = (Case("W4A8", 4, 8, 4, tuple(BLOCKS)), Case("W3A8", 3, 8, 8), Case("W4A4", 4, 4, 8))


@dataclass(frozen=True)
class Outcome:
    """Of one network and case: whether each test row is right, in float, for leanly's seeds and for the peer's.

    Where rows have no labels of their own, right is what float says.
    """

    whole: np.ndarray
    ours: np.ndarray
    theirs: np.ndarray
    peer: str


def rows(case: Case, data_dir: Path, networks: Sequence[str], seeds: int, quick: bool, scale: float) -> list[Row]:
    """Run a case on some networks, for a share of the steps of both sides' longest runs, and return its row."""
    subjects = [subject for subject in SUBJECTS if subject.name in networks]
    found = [_outcome(subject, case, data_dir, seeds, quick, scale) for subject in subjects]
    return [_row(case, subjects, found, seeds)]


def _row(case: Case, subjects: Sequence[Subject], found: Sequence[Outcome], seeds: int) -> Row:
    drops = {name: _drops(found, name) for name in ("ours", "theirs")}
    beyond = Interval(*_interval(drops["ours"] - case.share * drops["theirs"]), 0.95)
    ours, theirs = (Interval(*_interval(drops[name]), 0.95) for name in ("ours", "theirs"))
    outcome = "ok" if beyond.high <= 0 else "short" if beyond.low > 0 else "undecided"
    each = (
        f"{subject.name} {100 * _drop(part, part.ours):.2f} against {100 * _drop(part, part.theirs):.2f}"
        for subject, part in zip(subjects, found, strict=True)
    )
    return Row(
        name=f"{case.name} after training, mean of {', '.join(subject.title for subject in subjects)}",
        reached=Interval(100 * ours.value, 100 * ours.low, 100 * ours.high, 0.95),
        unit="points lost",
        aim=f"<= {case.share:g} of the peer's: {100 * case.share * theirs.value:.2f}",
        peer=f"brevitas ({'; '.join(dict.fromkeys(part.peer for part in found))}): {100 * theirs.value:.2f}",
        seeds=seeds,
        outcome=outcome,
        note="; ".join(each),
        facts={"beyond the aim": [100 * end for end in (beyond.value, beyond.low, beyond.high)]},
    )


def _drops(found: Sequence[Outcome], name: str) -> np.ndarray:
    """The mean drop over networks of the test rows as they are, then of rows drawn anew."""
    return np.mean([_drawn(part.whole - getattr(part, name).mean(0)) for part in found], axis=0)


def _drawn(lost: np.ndarray) -> np.ndarray:
    # the same seed: networks that share their rows share what is drawn
    picks = np.random.default_rng(0).integers(0, len(lost), (DRAWS, len(lost)))
    return np.concatenate([[lost.mean()], lost[picks].mean(1)])


def _drop(part: Outcome, right: np.ndarray) -> float:
    return float(part.whole.mean() - right.mean())


def _interval(drawn: np.ndarray) -> tuple[float, float, float]:
    low, high = np.quantile(drawn[1:], (0.025, 0.975))
    return float(drawn[0]), float(low), float(high)


def _outcome(subject: Subject, case: Case, data_dir: Path, seeds: int, quick: bool, scale: float) -> Outcome:
    rows = (subject.train or subject.calibration)(data_dir)
    calibration = rows.inputs[0][spread(len(rows), SAMPLES)]
    validation, test = subject.validation(data_dir), subject.test(data_dir)
    both = np.concatenate([validation.inputs[0], test.inputs[0]])
    model, count, fewer = subject.model(data_dir), len(validation), FEWER.get(subject.name, 1)
    labels = np.concatenate([validation.targets, test.targets])
    floats = float_outputs(model, (both,))
    if subject.measure == "agreement":
        labels = floats.argmax(1)

    def right(outputs: np.ndarray) -> np.ndarray:
        return (outputs.argmax(1) == labels).astype(np.float64)

    iterations = 200 // fewer if quick else round(scale * ITERATIONS) // fewer
    ours = [right(_ours(subject, case, data_dir, calibration, both, seed, iterations)) for seed in range(seeds)]

    def theirs(ranges: str, iterations: int) -> tuple[np.ndarray, str, int]:
        settings = ranges, iterations
        runs = [right(_theirs(subject, case, data_dir, calibration, both, settings, seed)) for seed in range(seeds)]
        return np.stack(runs), ranges, iterations

    def best(found: list[tuple[np.ndarray, str, int]]) -> tuple[np.ndarray, str, int]:
        return max(found, key=lambda one: one[0][:, :count].mean())

    peer = best([theirs(ranges, SHORT // fewer) for ranges in (RANGES[:1] if quick else RANGES)])
    if not quick:
        peer = best([peer, theirs(peer[1], round(scale * LONG) // fewer)])
    told = f"{peer[1]} ranges, {peer[2]} iterations"
    return Outcome(right(floats)[count:], np.stack(ours)[:, count:], peer[0][:, count:], told)


def _ours(
    subject: Subject,
    case: Case,
    data_dir: Path,
    calibration: np.ndarray,
    both: np.ndarray,
    seed: int,
    iterations: int,
) -> np.ndarray:
    end_bits = 0 if case.ends == case.weights else case.ends
    recipe = Recipe((
        Static(weights=case.weights, activations=case.activations, end_bits=end_bits, samples=SAMPLES),
        Reconstruct(
            iterations=iterations, samples=SAMPLES, seed=seed,
            progress=lambda share: print(f"{subject.name}, {case.name}: {share:.0%} reconstructed", flush=True),
        ),
    ))  # fmt: skip
    key = {"recipe": recipe.to_json(), "code": code_version(__file__), "versions": versions("torch", "onnxruntime")}
    path = folder_of(subject) / f"ours-{case.name}-{seed}-{iterations}.npy"

    def run() -> str:
        torch.set_num_threads(THREADS)
        model = subject.model(data_dir)
        inputs = torch.from_numpy(calibration)
        task = leanly.Task(model, example=inputs[:2], train=(inputs, torch.zeros(len(inputs), dtype=torch.long)))
        graph = recipe(leanly.capture(model, example=inputs[:2]).eval(), task, leanly.Target("cpu"))
        artifact = leanly.lower(graph, runtime="onnxruntime", to=path.with_suffix(""), precision="int8")
        np.save(path, outputs_of(artifact, (both,), THREADS))
        return path.name

    return np.load(folder_of(subject) / cached(f"few-{subject.name}", key, run))


def _theirs(
    subject: Subject,
    case: Case,
    data_dir: Path,
    calibration: np.ndarray,
    both: np.ndarray,
    settings: tuple[str, int],
    seed: int,
) -> np.ndarray:
    ranges, iterations = settings
    path = folder_of(subject) / f"brevitas-{case.name}-{ranges}-{iterations}-{seed}.npy"
    bits = {"weight-bits": case.weights, "activation-bits": case.activations, "end-bits": case.ends}
    more = {**bits, "iterations": iterations, "ranges": ranges, "seed": seed}
    return brevitas(subject, data_dir, {"calibration": calibration, "test": both}, path, more)


def brevitas(
    subject: Subject, data_dir: Path, arrays: dict[str, np.ndarray], path: Path, more: dict[str, Any]
) -> np.ndarray:
    """Run brevitas in its own environment, once, and return the outputs on the rows named "test".

    Args:
        subject: one of `BLOCKS`.
        data_dir: where its weights are.
        arrays: rows by the option of the peer's script that they are given as.
        path: where the outputs are kept, but for a part of the name that tells versions of the peer's script apart.
        more: other options.
    """
    script = Path(__file__).parent / "peer_brevitas.py"
    path = path.with_stem(f"{path.stem}-{hashlib.sha256(script.read_bytes()).hexdigest()[:8]}")
    if not path.exists():
        files = {name: _kept(path.parent, name, array) for name, array in arrays.items()}
        asked = {
            "root": script.parent.parent,
            "weights-file": _weights(subject, data_dir),
            "blocks": BLOCKS[subject.name],
            "out": path,
            "threads": THREADS,
            **files,
            **more,
        }
        command = [peers.python("brevitas"), script]
        command += [part for name, given in asked.items() for part in (f"--{name}", given)]
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            env={**os.environ, **KEEPS_MEMORY, "PYTHONPATH": ""},
        )
        if done.returncode:
            raise SystemExit(f"brevitas fails on {path.name}: {done.stderr[-2000:]}")
        facts = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{subject.name}: {path.stem} in {facts['seconds']:.0f} s", flush=True)
    return np.load(path)


def _weights(subject: Subject, data_dir: Path) -> Path:
    """The file of tensors that the peer loads into its own copy of the network."""
    if BLOCKS[subject.name]:
        return data_dir / f"cifar10-{subject.name}.safetensors"
    path = folder_of(subject) / "plain.safetensors"
    if not path.exists():
        tensors = plain(list(subject.model(data_dir).state_dict().values())).state_dict()
        with replacing(path) as temporary:
            save_file(tensors, temporary)
    return path


def _kept(folder: Path, name: str, array: np.ndarray) -> Path:
    """Write an array unless it is there; others may be reading it."""
    path = folder / f"{name}-{hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]}.npy"
    if not path.exists():
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, array)
    return path


def folder_of(subject: Subject) -> Path:
    """Return where what is made for a subject is kept."""
    folder = CACHE / "few" / subject.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder

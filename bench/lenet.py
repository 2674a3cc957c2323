"""LeNets on MNIST made as small as they get without loss: pruned step by step, few bits, entropy-coded.

`--scale` of `python -m bench.prune` shortens all training, for looking around.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import leanly
from bench import data
from bench.data import CACHE
from bench.entrants import THREADS, outputs_of
from bench.models import lenet
from bench.models.subjects import float_outputs
from bench.rows import RESULTS, Row, cached, code_version, kept
from leanly.distill import Distill
from leanly.measurement.records import Interval
from leanly.prune import Sparse, gradual, lamp
from leanly.quantize import LearnSteps, Static
from leanly.training import Settings, train

NO_LOSS = 0.05
"""Points of test error, mean over the seeds, that still count as none."""
FLOAT = 4
"""Bytes of a parameter of the reference."""
SEEDS = RESULTS / "lenet"
"""Where what came of each seed is kept: one takes an hour."""


@dataclass(frozen=True)
class Case:
    """One network and how it is made small.

    Args:
        name: of the row.
        reference: the network that is compressed.
        aim: times fewer bytes.
        published: by whom, and how far.
        sparsity: share of the weights that leaves, step by step; 0 leaves all.
        bits: of weights.
        steps: of sparsity.
        plateau: epochs of the reference.
        each, last, fine: epochs after a step of sparsity, after the last, and with few bits.
        augment: of all training, also that of the reference; what was published has none.
        student: another network, taught from scratch for `plateau` epochs; None takes the reference itself.
        student_rate, fine_rate: learning rates of the student, and with few bits.
        size: bytes of the codes that training with few bits ends with; None leaves them as they are.
    """

    name: str
    reference: Callable[[], nn.Module]
    aim: float
    published: str
    sparsity: float
    bits: int
    steps: int = 10
    plateau: int = 60
    each: int = 2
    last: int = 20
    fine: int = 30
    augment: tuple[str, ...] = ()
    student: Callable[[], nn.Module] | None = None
    student_rate: float = 5e-3
    fine_rate: float = 1e-3
    size: int | None = None


CASES = {
    "LeNet-300-100": Case(
        "LeNet-300-100",
        lenet.lenet_300_100,
        100,
        "Deep Compression 40x",
        0.968,
        4,
        each=3,
        last=40,
        fine=40,
    ),
    "LeNet-5": Case("LeNet-5", lenet.lenet_5, 100, "Deep Compression 39x", 0.966, 4, plateau=30),
    "LeNet-5-any": Case(
        "LeNet-5, any recipe",
        lenet.lenet_5,
        555,
        "MIRACLE 555x",
        0,
        4,
        plateau=30,
        fine=40,
        student=lenet.Tiny,
        fine_rate=2e-3,
        size=2650,
    ),
}
SETTINGS = Settings(batch_size=128, learning_rate=1e-3, keep_zeros=True, regrow=True)


def rows(case: Case, data_dir: Path, seeds: int, scale: float = 1.0) -> list[Row]:
    """Compress a network with each seed; return the row of its bytes and the one of its errors."""
    sizes, lost, errors = [], [], []
    for seed in range(seeds):
        key = {
            "case": case.name,
            "how": {name: getattr(value, "__name__", value) for name, value in vars(case).items()},
            "seed": seed,
            "scale": scale,
            "code": code_version(__file__, lenet.__file__),
        }
        folder = CACHE / "lenet" / kept("lenet", key).stem
        run = partial(_compressed, case, data_dir, seed, scale, folder)
        found = cached("lenet", key, run, SEEDS)
        sizes.append(found["parameters"] * FLOAT / found["payload"])
        lost.append(100 * (found["error"] - found["reference_error"]))
        errors.append((found["reference_error"], found["error"]))
        print(f"{case.name}, seed {seed}: {sizes[-1]:.1f}x, {lost[-1]:+.2f} points", flush=True)
    ratio = float(np.mean(sizes))
    smallest, largest = min(sizes), max(sizes)
    mean = float(np.mean(lost))
    told = ", ".join(f"{before:.2%} to {after:.2%}" for before, after in errors)
    enough = "ok" if ratio >= case.aim else "short"
    return [
        Row(
            f"{case.name}, MNIST: payload",
            Interval(ratio, smallest, largest),
            "x fewer bytes (lowest and highest of the seeds)",
            f">= {case.aim:g}x at no loss",
            case.published,
            seeds,
            enough if mean <= NO_LOSS else "short",
            f"{case.bits} bits, {case.sparsity:.1%} of the weights gone, "
            f"{f'codes trained to {case.size:,} bytes, ' if case.size else ''}trained with "
            f"{' '.join(case.augment) or 'no'} augmentation",
        ),
        Row(
            f"{case.name}, MNIST: test error above the reference's",
            Interval(mean, min(lost), max(lost)),
            "points (lowest and highest of the seeds)",
            f"mean <= {NO_LOSS:g}",
            "",
            seeds,
            "ok" if mean <= NO_LOSS else "short",
            f"error {told}",
        ),
    ]


def _compressed(case: Case, data_dir: Path, seed: int, scale: float, folder: Path) -> dict[str, Any]:
    """Train a reference, make it small, and return the errors of both on the test rows, and the bytes."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)
    test = _split(data_dir, "test", data.CUT, None)
    model = case.reference().eval()
    settings = replace(SETTINGS, augment=case.augment, seed=seed)
    about = _task(model, data_dir)

    def epochs(count: int) -> int:
        return max(1, round(scale * count))

    plateau = epochs(case.plateau)
    first = folder.parent / "-".join([case.reference.__name__, *case.augment, f"{plateau}", f"{seed}"])
    reference = train(about, epochs=plateau, settings=settings, folder=first)
    graph = reference
    if case.student is not None:
        student = leanly.capture(case.student().train(), example=about.example)
        faster = replace(settings, learning_rate=case.student_rate)
        graph = Distill(reference, plateau, settings=faster, folder=folder / "student")(student, about)
    for number, sparsity in enumerate(gradual(case.sparsity, case.steps) if case.sparsity else ()):
        count = epochs(case.last if number + 1 == case.steps else case.each)
        graph = Sparse(sparsity, importance=lamp, scope="network")(graph, about)
        graph = Distill(reference, count, settings=settings, folder=folder / f"sparse-{number}")(graph, about)
    graph = Static(weights=case.bits, activations=8, granularity="tensor", samples=512)(graph.eval(), about)
    graph = LearnSteps()(graph, about)
    last = replace(settings, learning_rate=case.fine_rate, coded_size=case.size)
    graph = Distill(reference, epochs(case.fine), settings=last, folder=folder / "fine")(graph, about)
    artifact = leanly.lower(graph, runtime="onnxruntime", to=folder / "lowered", precision="int8")
    outputs = outputs_of(artifact, (test[0].numpy(),), THREADS)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "payload": artifact.payload_bytes,
        "reference_error": _error(float_outputs(reference, (test[0].numpy(),)), test[1]),
        "error": _error(outputs, test[1]),
    }


def _task(model: nn.Module, data_dir: Path) -> leanly.Task:
    # without validation rows: nothing is chosen, the last state of every training counts
    rows = _split(data_dir, "train", 0, None)
    return leanly.Task(model, example=rows[0][:2], train=rows, loss="cross_entropy")


def _split(data_dir: Path, name: str, start: int, stop: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return digits from 0 to 1: what is shifted in from outside is background then."""
    images = data.mnist(data_dir, name).part(start, stop)
    return torch.from_numpy(images.inputs * data.MNIST_STD + data.MNIST_MEAN), torch.from_numpy(images.labels)


def _error(outputs: np.ndarray, labels: torch.Tensor) -> float:
    """Return the share of rows that are taken for another digit."""
    return float((outputs.argmax(1) != labels.numpy()).mean())

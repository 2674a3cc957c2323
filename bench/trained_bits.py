"""Few bits during training: ResNet-20 taught by its float network, steps learned, against brevitas at equal epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import leanly
from bench.apart import Training
from bench.drops import points_lost
from bench.entrants import THREADS, outputs_of
from bench.few_bits import SAMPLES, brevitas, folder_of
from bench.models.subjects import Rows, Subject, float_outputs, spread, subject_named, taught_task
from bench.rows import Row, at_most, cached, code_version, told
from leanly.distill import Distill
from leanly.graph import Graph
from leanly.quantize import Equalize, LearnSteps, Static
from leanly.training import Settings

EPOCHS = 30
AIMS = {"W4A4-trained": (4, 0.3), "W2A2-trained": (2, 2.0)}
"""Bits, and the drop aimed at in points."""
MARGIN = 0.5
"""Points below the peer that still count as none, on 6,000 rows."""
SETTINGS = Settings(batch_size=128, learning_rate=1e-3, augment=("crop", "flip"), precision="float32")
RANGES = ("stats", "mse")
"""How the peer's steps start: taken from the weights in every step, or learned from the least squared error on."""


def training(name: str, data_dir: Path, epochs: int = EPOCHS) -> Training:
    """Return the training of a case."""
    bits, _ = AIMS[name]

    def make(device: str, folder: Path) -> Graph:
        torch.set_num_threads(THREADS)
        subject, train, validation, _ = _parts(data_dir)
        task = taught_task(subject.model(data_dir), train, validation)
        graph = leanly.capture(task.model, example=task.example).eval()
        equal = Equalize()(graph, task)
        start = Static(weights=bits, activations=bits, end_bits=8, samples=SAMPLES)(equal, task)
        teach = Distill(
            epochs=epochs, alpha=0.9, temperature=4.0, settings=SETTINGS, folder=folder, progress=told(name)
        )
        return teach(LearnSteps(shifts=True)(start, task).to(device), task)

    code = code_version(__file__, rooms=("distill", "graph", "quantize", "training"))
    return Training(f"{name}-{epochs}", {"bits": bits, "epochs": epochs, "code": code}, make)


def peer(name: str, data_dir: Path, ranges: str, epochs: int = EPOCHS, device: str = "cpu") -> np.ndarray:
    """Return what brevitas gives for the rows of validation, then of test, trained as leanly is."""
    subject, train, validation, test = _parts(data_dir)
    arrays = {
        "calibration": train.inputs[0][spread(len(train), SAMPLES)],
        "test": np.concatenate([validation.inputs[0], test.inputs[0]]),
        "train": train.inputs[0],
        "labels": train.targets,
        "validation": validation.inputs[0],
        "validation-labels": validation.targets,
    }
    bits, _ = AIMS[name]
    path = folder_of(subject) / f"brevitas-{name}-{epochs}-{ranges}.npy"
    more = {"weight-bits": bits, "activation-bits": bits, "end-bits": 8, "iterations": 0, "ranges": ranges}
    return brevitas(subject, data_dir, arrays, path, {**more, "epochs": epochs, "device": device})


def rows(name: str, data_dir: Path, epochs: int = EPOCHS) -> list[Row]:
    """Return the drop below float, and below the peer."""
    _, aim = AIMS[name]
    subject, _, validation, test = _parts(data_dir)
    trained = training(name, data_dir, epochs)

    def right(outputs: np.ndarray) -> np.ndarray:
        return (outputs.argmax(1) == test.targets).astype(np.float64)

    def ours() -> str:
        folder = trained.folder / "lowered"
        artifact = leanly.lower(trained.graph(), runtime="onnxruntime", to=folder, precision="int8")
        path = folder_of(subject) / f"ours-{name}-{epochs}.npy"
        np.save(path, outputs_of(artifact, test.inputs, THREADS))
        return path.name

    mine = right(np.load(folder_of(subject) / cached(f"trained-{name}", trained.key, ours)))
    count = len(validation)
    scores = {ranges: peer(name, data_dir, ranges, epochs) for ranges in RANGES}
    best = max(RANGES, key=lambda ranges: (scores[ranges][:count].argmax(1) == validation.targets).mean())
    theirs = right(scores[best][count:])
    whole = right(float_outputs(subject.model(data_dir), test.inputs))
    beside = f"brevitas, {best} ranges: {100 * (whole.mean() - theirs.mean()):.2f}; published: APoT 0.5 / 2.0"
    below = [(whole, aim, f"drop below float, {epochs} epochs"), (theirs, MARGIN, "drop below brevitas")]
    return [
        _row(f"{name}, ResNet-20: {what}", reference, mine, limit, beside, trained.told)
        for reference, limit, what in below
    ]


def _parts(data_dir: Path) -> tuple[Subject, Rows, Rows, Rows]:
    """The network with its rows: train, validation, test."""
    subject = subject_named("resnet20")
    assert subject.train is not None
    return subject, subject.train(data_dir), subject.validation(data_dir), subject.test(data_dir)


def _row(name: str, reference: np.ndarray, mine: np.ndarray, aim: float, beside: str, where: str) -> Row:
    reached = points_lost(reference, mine, aim)
    return Row(
        name=name,
        reached=reached,
        unit="points of accuracy lost",
        aim=f"<= {aim:g}",
        peer=beside,
        seeds=1,
        outcome=at_most(reached, aim),
        note=f"accuracy {mine.mean():.2%} of {len(mine)} rows; {where}",
    )

"""The networks of the int8 benchmark with their data: what calibrates, what chooses, and what is reported on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import leanly
from bench import data
from bench.models import cifar_resnet, efficientnet_lite, minilm, small_cnn, small_inception

CALIBRATION = 300
"""Rows that calibrate, for leanly and every peer alike; the default of NNCF."""

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Rows:
    """Flat input arrays and what belongs to each row: labels, or the pair scores of two rows that follow each other."""

    inputs: Arrays
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True)
class Subject:
    """One network and its data.

    Args:
        name: as `--rows` and the result files name it.
        title: as the table names it.
        measure: "accuracy" on labels, "agreement" with the float network, or "spearman" over sentence pairs.
        margin: the drop, beyond the best peer's, that still counts as none; in the measure's own units.
        input_names: names of the flat inputs.
        model: makes the float network.
        calibration, validation, test: make the rows of each part.
        train: makes all training rows, for what learns; None where the benchmark teaches nothing.
    """

    name: str
    title: str
    measure: str
    margin: float
    input_names: tuple[str, ...]
    model: Callable[[Path], nn.Module]
    calibration: Callable[[Path], Rows]
    validation: Callable[[Path], Rows]
    test: Callable[[Path], Rows]
    train: Callable[[Path], Rows] | None = None


def taught_task(model: nn.Module, train: Rows, validation: Rows) -> leanly.Task:
    """Return the task of a network of one input that is taught on labels and watched on validation."""
    return leanly.Task(
        model,
        example=train.inputs[0][:2],
        train=(train.inputs[0], train.targets),
        validation=(validation.inputs[0], validation.targets),
        loss="cross_entropy",
    )


def float_outputs(model: Callable[..., torch.Tensor], inputs: Arrays, batch: int = 50) -> np.ndarray:
    """Return what a module or a graph gives in eager PyTorch, row by row in order."""
    with torch.no_grad():
        parts = [
            model(*(torch.from_numpy(array[start : start + batch]) for array in inputs)).numpy()
            for start in range(0, len(inputs[0]), batch)
        ]
    return np.concatenate(parts)


def spread(count: int, wanted: int = CALIBRATION) -> np.ndarray:
    """Return row numbers spread evenly over a split, so that a sorted file is still covered."""
    return np.linspace(0, count - 1, min(count, wanted)).astype(int)


def _images(images: data.Images) -> Rows:
    return Rows((images.inputs,), images.labels)


def _first_of_training(read: Callable[[Path, str], data.Images], data_dir: Path) -> Rows:
    images = read(data_dir, "train")
    rows = spread(len(images.labels))
    return Rows((images.inputs[rows],), images.labels[rows])


def _classifier(
    name: str, title: str, read: Callable[[Path, str], data.Images], model: Callable[[Path], nn.Module]
) -> Subject:
    return Subject(
        name=name,
        title=title,
        measure="accuracy",
        margin=0.005,
        input_names=("x",),
        model=model,
        calibration=lambda data_dir: _first_of_training(read, data_dir),
        validation=lambda data_dir: _images(read(data_dir, "test").part(0, data.CUT)),
        test=lambda data_dir: _images(read(data_dir, "test").part(data.CUT)),
        train=lambda data_dir: _images(read(data_dir, "train")),
    )


def _lite_rows(first: int) -> Callable[[Path], Rows]:
    """Every second crop: the file is sorted by class, and its first half shows animals alone."""
    return lambda data_dir: _images(data.imagenet_sample(data_dir).part(first, step=2))


def _sentence_rows(start: int, stop: int) -> Callable[[Path], Rows]:
    def read(data_dir: Path) -> Rows:
        pairs = data.sts_images(data_dir)
        first, second, scores = pairs.first[start:stop], pairs.second[start:stop], pairs.scores[start:stop]
        sentences = [sentence for pair in zip(first, second, strict=True) for sentence in pair]
        return Rows(minilm.tokenize(sentences), np.repeat(scores, 2))

    return read


def _labelled(split: str) -> Callable[[Path], Rows]:
    def read(data_dir: Path) -> Rows:
        ids, mask, labels = minilm.classifier_rows(data.sst2(data_dir, split))
        return Rows((ids, mask), labels)

    return read


def _labelled_calibration(data_dir: Path) -> Rows:
    rows = _labelled("train")(data_dir)
    keep = spread(len(rows))
    return Rows(tuple(array[keep] for array in rows.inputs), rows.targets[keep])


def _sentence_calibration(data_dir: Path) -> Rows:
    rows = _sentence_rows(0, 250)(data_dir)
    keep = spread(len(rows))
    return Rows(tuple(array[keep] for array in rows.inputs), rows.targets[keep])


SUBJECTS = (
    _classifier("small-cnn", "small CNN, MNIST", data.mnist, small_cnn.load),
    _classifier("resnet20", "ResNet-20, CIFAR-10", data.cifar10, lambda folder: cifar_resnet.load(folder, 20)),
    _classifier("resnet56", "ResNet-56, CIFAR-10", data.cifar10, lambda folder: cifar_resnet.load(folder, 56)),
    Subject(
        name="lite0",
        title="EfficientNet-Lite0, ImageNet sample",
        measure="agreement",
        margin=0.005,
        input_names=("x",),
        model=lambda _: efficientnet_lite.load(),
        calibration=_lite_rows(0),
        validation=_lite_rows(0),
        test=_lite_rows(1),
    ),
    Subject(
        name="minilm",
        title="MiniLM-L6 at length 128, STS pairs",
        measure="spearman",
        margin=0.005,
        input_names=("input_ids", "attention_mask"),
        model=lambda _: minilm.load(),
        calibration=_sentence_calibration,
        validation=_sentence_rows(0, 250),
        test=_sentence_rows(250, 750),
    ),
)


def subject_named(name: str) -> Subject:
    """Return one of the subjects."""
    return next(subject for subject in SUBJECTS if subject.name == name)


MINILM_SST2 = Subject(
    name="minilm-sst2",
    title="MiniLM-L6 at length 128, SST-2",
    measure="accuracy",
    margin=0.01,
    input_names=("input_ids", "attention_mask"),
    model=minilm.load_classifier,
    calibration=_labelled_calibration,
    validation=_labelled("dev"),
    test=_labelled("test"),
    train=_labelled("train"),
)
"""A classifier, for what is taught; `SUBJECTS` are those that are only quantized."""

INCEPTION = _classifier("small-inception", "small Inception, CIFAR-10", data.cifar10, small_inception.load)
"""For what is cut; trained by the benchmark itself."""

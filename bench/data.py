"""Readers for the benchmark data: arrays in a fixed order, preprocessed as the reference networks want them."""

from __future__ import annotations

import hashlib
import io
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CACHE = Path(__file__).parent / ".cache"
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
CUT = 4_000
"""Test images before this one are `validation`, the others are `test`."""


@dataclass(frozen=True)
class Images:
    """Preprocessed images, channels first, and their labels."""

    inputs: np.ndarray
    labels: np.ndarray

    def part(self, start: int, stop: int | None = None, step: int = 1) -> Images:
        """Return every so many rows, from `start` up to `stop`."""
        return Images(self.inputs[start:stop:step], self.labels[start:stop:step])


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs and how alike people found them, 0 to 5."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: np.ndarray


@dataclass(frozen=True)
class Sentences:
    """Sentences and their labels."""

    texts: tuple[str, ...]
    labels: np.ndarray


def mnist(folder: Path, split: str) -> Images:
    """Read MNIST, "train" or "test": float32 `[n, 1, 28, 28]`, normalised."""
    with np.load(folder / f"mnist-{split}.npz") as file:
        images, labels = file["images"], file["labels"]
    inputs = (images.astype(np.float32)[:, None] / 255 - MNIST_MEAN) / MNIST_STD
    return Images(np.ascontiguousarray(inputs, dtype=np.float32), labels.astype(np.int64))


def cifar10(folder: Path, split: str) -> Images:
    """Read the JPEG CIFAR-10, "train" or "test": float32 `[n, 3, 32, 32]`, normalised."""
    pixels, labels = _jpegs(folder / f"cifar10-jpeg-{split}.npz")
    inputs = (pixels.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    return Images(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), dtype=np.float32), labels)


def imagenet_sample(folder: Path) -> Images:
    """Read the 500 ImageNet crops: float32 `[n, 3, 224, 224]`, `(x - 127) / 128` as EfficientNet-Lite wants it."""
    pixels, labels = _jpegs(folder / "imagenet-sample-500.npz")
    inputs = (pixels.astype(np.float32) - 127) / 128
    return Images(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), dtype=np.float32), labels)


def sts_images(folder: Path) -> Pairs:
    """Read the 750 sentence pairs of STS-2014 images, in the file's order."""
    rows = [line.split("\t") for line in (folder / "sts14-images.tsv").read_text(encoding="utf-8").splitlines()]
    scores = np.array([float(row[0]) for row in rows])
    return Pairs(tuple(row[1] for row in rows), tuple(row[2] for row in rows), scores)


def sst2(folder: Path, split: str) -> Sentences:
    """Read SST-2, "train", "dev" or "test", in the file's order."""
    rows = [line.split("\t") for line in (folder / f"sst2-{split}.tsv").read_text(encoding="utf-8").splitlines()]
    return Sentences(tuple(row[0] for row in rows), np.array([int(row[1]) for row in rows]))


def _jpegs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decode a file of JPEGs once; the pixels (uint8, channels last) are kept under the cache by the file's hash."""
    from PIL import Image

    with np.load(path) as file:
        jpeg, offsets, labels = file["jpeg"], file["offsets"], file["labels"]
    name = hashlib.sha256(jpeg.tobytes() + offsets.tobytes()).hexdigest()[:16]
    cached = CACHE / "data" / f"{path.stem}-{name}.npy"
    if not cached.exists():
        images = [
            np.asarray(Image.open(io.BytesIO(jpeg[start:stop].tobytes())).convert("RGB"))
            for start, stop in itertools.pairwise(offsets)
        ]
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_suffix(".tmp.npy")
        np.save(temporary, np.stack(images))
        temporary.replace(cached)
    return np.load(cached), labels.astype(np.int64)

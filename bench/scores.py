"""What the outputs of a network are worth: its metric on the rows of a subject, and the paired drop between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.models.subjects import Rows, Subject
from leanly.measurement.records import PairedDrop
from leanly.measurement.statistics import paired_drop
from leanly.metrics import Metric, resolve_metric


def _signal_to_noise(outputs: np.ndarray, reference: np.ndarray) -> float:
    noise = ((outputs - reference) ** 2).sum(axis=1)
    return float(np.mean(10 * np.log10((reference**2).sum(axis=1) / np.maximum(noise, 1e-30))))


def _mean_cosine(outputs: np.ndarray, reference: np.ndarray) -> float:
    lengths = np.linalg.norm(outputs, axis=1) * np.linalg.norm(reference, axis=1)
    return float(np.mean((outputs * reference).sum(axis=1) / np.maximum(lengths, 1e-30)))


SIGNAL_TO_NOISE = Metric("output SQNR (dB)", _signal_to_noise)
MEAN_COSINE = Metric("cosine with the float outputs", _mean_cosine)


@dataclass(frozen=True)
class Scale:
    """A metric and how raw outputs become what it takes.

    Args:
        metric: higher is better.
        targets: of the rows, or of the pairs.
        paired: outputs are unit vectors of sentences, and rows 2i and 2i + 1 make the pair i.
    """

    metric: Metric
    targets: np.ndarray
    paired: bool = False

    def predictions(self, outputs: np.ndarray) -> np.ndarray:
        """Return what the metric takes."""
        if not self.paired:
            return outputs
        first, second = outputs[0::2], outputs[1::2]
        return (first * second).sum(axis=1) / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))

    def score(self, outputs: np.ndarray) -> float:
        """Return the metric over all rows."""
        return self.metric.score(self.predictions(outputs), self.targets)

    def drop(self, peer: np.ndarray, ours: np.ndarray, margin: float) -> PairedDrop:
        """Test whether the metric of `ours` is below the one of `peer` by less than `margin`."""
        return paired_drop(self.metric, self.predictions(peer), self.predictions(ours), self.targets, margin)


def scale(subject: Subject, rows: Rows, reference: np.ndarray) -> Scale:
    """Return the scale that a subject is reported on.

    Args:
        subject: says which measure.
        rows: labels or pair scores.
        reference: outputs of the float network on these rows.
    """
    if subject.measure == "agreement":
        return Scale(resolve_metric("accuracy"), reference.argmax(axis=1))
    if subject.measure == "spearman":
        return Scale(resolve_metric("spearman"), rows.targets[0::2], paired=True)
    return Scale(resolve_metric("accuracy"), rows.targets)

"""What measuring leaves behind: intervals, raw latency samples, measurements, comparisons and verdicts, all as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from leanly.errors import BundleError
from leanly.files import read_json, replacing, write_json
from leanly.measurement.bootstrap import loadgen_percentile, median_ends
from leanly.structure import build, flatten

Outcome = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its two-sided interval."""

    value: float
    low: float
    high: float
    confidence: float = 0.95

    def inverse(self) -> Interval:
        """Return the interval of 1 / value: a latency ratio becomes a speed-up."""
        return Interval(1 / self.value, 1 / self.high, 1 / self.low, self.confidence)

    def to_json(self) -> dict[str, Any]:
        """Return the interval as data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Interval:
        """Read what `to_json` wrote."""
        return Interval(**data)


@dataclass(frozen=True)
class Latency:
    """Raw samples of one artifact at one batch size.

    Args:
        batch_size: rows in a call.
        blocks: seconds of each call, one tuple a block, one block a round; block i of artifacts timed in turns pair up.
    """

    batch_size: int
    blocks: tuple[tuple[float, ...], ...]

    @property
    def block_medians(self) -> tuple[float, ...]:
        """Seconds per call, one figure a block."""
        return tuple(median(block) for block in self.blocks)

    @property
    def median(self) -> float:
        """Seconds per call: the median of the block medians."""
        return median(self.block_medians)

    @property
    def spread(self) -> float:
        """The 90th percentile of the block medians over the 10th: 1 where nothing disturbed them."""
        low, high = np.quantile(self.block_medians, [0.1, 0.9])
        return float(high / low)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Return the median with its percentile-bootstrap interval over blocks (calls in one are not independent)."""
        low, high = median_ends(self.block_medians, confidence)
        return Interval(self.median, low, high, confidence)

    def percentile(self, percent: float) -> float | None:
        """Return a percentile of the seconds per call by MLPerf LoadGen's rule, None when there are too few calls."""
        return loadgen_percentile([seconds for block in self.blocks for seconds in block], percent)

    def to_json(self) -> dict[str, Any]:
        """Return the samples as data, in whole nanoseconds as the clock gave them."""
        blocks = [[round(seconds * 1e9) for seconds in block] for block in self.blocks]
        return {"batch_size": self.batch_size, "nanoseconds": blocks}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Latency:
        """Read what `to_json` wrote."""
        blocks = tuple(tuple(count / 1e9 for count in block) for block in data["nanoseconds"])
        return Latency(int(data["batch_size"]), blocks)


@dataclass(frozen=True, eq=False)
class Measurement:
    """One artifact as it ran on the target.

    Args:
        runtime, precision: of the artifact.
        threads: worker threads that were allowed.
        latency: by batch size.
        open_seconds: from a bundle's files to the first answer, in a fresh process, its own start left out.
        peak_memory_bytes: growth of the process's peak resident memory above what it was before opening; None where
            the system does not tell.
        artifact_bytes: what the runtime reads.
        macs: of one row, where known (a diagnostic).
        split: which split was scored, None when none was.
        metric: the score on that split.
        predictions: numpy arrays in the model's own structure, all rows of the split in order.
        predict_seconds: what predicting the split took, reading its rows included; None when nothing was predicted.
        machine, versions: where it ran.
    """

    runtime: str
    precision: str
    threads: int
    latency: dict[int, Latency]
    open_seconds: float
    peak_memory_bytes: int | None
    artifact_bytes: int
    macs: int | None = None
    split: str | None = None
    metric: float | None = None
    predictions: Any = None
    predict_seconds: float | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        times = ", ".join(f"batch {size}: {1e3 * latency.median:.4g} ms" for size, latency in self.latency.items())
        score = f", metric {self.metric:.4g} on {self.split}" if self.metric is not None else ""
        return f"Measurement({self.precision} in {self.runtime}; {times}{score}; {self.artifact_bytes:,} bytes)"

    def to_json(self) -> dict[str, Any]:
        """Return everything but the predictions as data."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "predictions"}
        return {**data, "latency": [latency.to_json() for latency in self.latency.values()]}

    @staticmethod
    def from_json(data: Mapping[str, Any], predictions: Any = None) -> Measurement:
        """Read what `to_json` wrote."""
        latency = {entry["batch_size"]: Latency.from_json(entry) for entry in data["latency"]}
        return Measurement(**{**data, "latency": latency, "predictions": predictions})

    def save(self, path: str | Path) -> None:
        """Write a JSON file, and the predictions as .npy files beside it."""
        path = Path(path)
        data = self.to_json()
        if self.predictions is not None:
            structure, leaves = flatten(self.predictions)
            names = [f"{path.stem}.predictions.{number}.npy" for number in range(len(leaves))]
            for name, leaf in zip(names, leaves, strict=True):
                with replacing(path.parent / name) as temporary, open(temporary, "wb") as file:
                    np.save(file, np.asarray(leaf), allow_pickle=False)
            data["predictions"] = {"structure": structure, "files": names}
        write_json(path, data)

    @staticmethod
    def open(path: str | Path) -> Measurement:
        """Read what `save` wrote.

        Raises:
            BundleError: a file is missing or damaged.
        """
        path = Path(path)
        data = read_json(path)
        try:
            stored = data.pop("predictions", None)
            predictions = None
            if stored is not None:
                # Only the bare name counts: the files lie beside the JSON file, never elsewhere.
                files = [path.parent / Path(name).name for name in stored["files"]]
                predictions = build(stored["structure"], [np.load(file, allow_pickle=False) for file in files])
            return Measurement.from_json(data, predictions)
        except (OSError, EOFError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BundleError(
                f"a measurement is damaged ({error!r})", where=str(path), remedy="copy the folder again, whole"
            ) from error


@dataclass(frozen=True)
class PairedDrop:
    """How much lower the candidate's metric is than the reference's, on the same examples.

    Args:
        drop: reference minus candidate, in the metric's units, two-sided.
        lower, upper: one-sided bounds, each at the drop's confidence.
        test: which test made it.
        n: examples.
        p_below: p-value of "the drop is `max_drop` or more": small shows that it is below.
        p_above: p-value of "the drop is `max_drop` or less": small shows that it is above.
    """

    drop: Interval
    lower: float
    upper: float
    test: str
    n: int
    p_below: float
    p_above: float


@dataclass(frozen=True)
class Comparison:
    """Two artifacts timed in turns and scored on the same examples.

    Args:
        a, b: the measurements.
        ratio: seconds of `a` over seconds of `b` by batch size: below 1, `a` is faster.
        geometric_mean: of the ratios over the batch sizes.
        drop: metric of `b` minus metric of `a`; None without a split.
    """

    a: Measurement
    b: Measurement
    ratio: dict[int, Interval]
    geometric_mean: Interval
    drop: PairedDrop | None = None

    def __repr__(self) -> str:
        parts = [
            f"a takes {ratio.value:.3g}x ({ratio.low:.3g} to {ratio.high:.3g}) the time of b at batch {size}"
            for size, ratio in self.ratio.items()
        ]
        if self.drop is not None:
            lost = self.drop.drop
            parts.append(
                f"a's metric is {lost.value:.4g} ({lost.low:.4g} to {lost.high:.4g}) lower on {self.drop.n} rows"
            )
        return f"Comparison({'; '.join(parts)})"


@dataclass(frozen=True)
class Verdict:
    """Pass, fail or undecided against a budget, with the interval and the test used.

    Args:
        outcome: "undecided" is said when the data shows neither.
        reason: one sentence with figures and units.
        drop: reference minus candidate, two-sided; None where nothing was tested.
        upper: one-sided upper bound of the drop.
        test: name of the test, "" where none was needed.
        n: examples.
        p_value: of the test of non-inferiority.
    """

    outcome: Outcome
    reason: str
    drop: Interval | None = None
    upper: float | None = None
    test: str = ""
    n: int = 0
    p_value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Verdict:
        """Read what `to_json` wrote."""
        drop = data.get("drop")
        return Verdict(**{**data, "drop": Interval.from_json(drop) if drop is not None else None})

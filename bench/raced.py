"""What stands behind the rows of a race: every entrant's metric on test and its times, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bench.contest import Ground, test_outputs
from bench.entrants import BATCHES, Entrant
from bench.rows import print_lines
from leanly.measurement.records import Latency


def raced(
    ground: Ground, everyone: Iterable[Entrant], latencies: Sequence[dict[str, dict[int, Latency]]]
) -> dict[str, Any]:
    """Return the metric on test and the milliseconds of each entrant, by its label.

    Args:
        ground: the subject and its rows.
        everyone: that raced; each label once.
        latencies: of one race a seed, by label and batch size.
    """
    return {
        entrant.label: {
            "metric on test": ground.test_scale.score(test_outputs(ground, entrant)),
            "milliseconds": {
                size: [found[entrant.label][size].interval().to_json() for found in latencies if entrant.label in found]
                for size in BATCHES
            },
        }
        for entrant in {entrant.label: entrant for entrant in everyone}.values()
    }


def print_raced(ground: Ground, entrants: dict[str, Any], title: str) -> None:
    """Print what `raced` gave, times as geometric means over the seeds."""
    subject = ground.subject
    lines = [["PyTorch float32", f"{ground.test_scale.score(ground.float_test) * 100:.2f}", "", ""]]
    for label, facts in entrants.items():
        times = [
            f"{np.exp(np.mean([np.log(part['value']) for part in found])) * 1e3:.3f}" if found else ""
            for found in facts["milliseconds"].values()
        ]
        lines.append([label, f"{facts['metric on test'] * 100:.2f}", *times])
    headings = ["entrant", f"{subject.measure} on test", *(f"ms, batch {size}" for size in BATCHES)]
    print_lines(f"{subject.title}: {title}", headings, lines)

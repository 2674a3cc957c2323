"""The row of a benchmark that says what accuracy was lost: the worst of what leanly shipped, on the same test rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.rows import Row
from bench.scores import Scale
from leanly.measurement import paired_drop_exact
from leanly.measurement.records import Interval


def points_lost(reference: np.ndarray, mine: np.ndarray, aim: float) -> Interval:
    """Return the paired drop of accuracy in points, with its interval.

    Args:
        reference, mine: whether each row is right, 0 or 1.
        aim: in points, that is tested.
    """
    drop = paired_drop_exact(reference, mine, aim / 100).drop
    return Interval(100 * drop.value, 100 * drop.low, 100 * drop.high)


def drop_row(
    name: str,
    scale: Scale,
    peer: tuple[str, np.ndarray],
    ours: Sequence[tuple[str, np.ndarray]],
    *,
    margin: float,
    unit: str,
    factor: float = 100.0,
    seeds: int = 1,
    note: str = "",
) -> Row:
    """Test that the metric of everything shipped is below a peer's by less than a margin, one-sided at 95 %.

    Args:
        name: of the row.
        scale: the metric and its targets.
        peer: label and outputs on test.
        ours: the same for each artifact that was shipped; the row shows the one with the highest bound.
        margin: the drop that still counts as none, in the metric's units.
        unit: as it is printed, after `factor`.
        factor: from the metric's units to those printed.
        seeds: how many runs `ours` come from.
        note: said after the scores.
    """
    reached = [(scale.drop(peer[1], outputs, margin), scale.score(outputs), label) for label, outputs in ours]
    worst, score, label = max(reached, key=lambda item: item[0].upper)
    outcome = "ok" if worst.p_below <= 0.05 and worst.upper < margin else "undecided"
    if worst.lower > margin:
        outcome = "short"
    said = [f"leanly {score * factor:.2f} ({label})"]
    if outcome != "ok":
        said.append(f"one-sided upper bound {worst.upper * factor:.2f} at n = {worst.n}")
    drop = worst.drop
    return Row(
        name=name,
        reached=Interval(drop.value * factor, drop.low * factor, drop.high * factor, drop.confidence),
        unit=unit,
        aim=f"< {margin * factor:g} (one-sided 95 %)",
        peer=f"{peer[0]}: {scale.score(peer[1]) * factor:.2f}",
        seeds=seeds,
        outcome=outcome,
        note="; ".join([*said, *([note] if note else [])]),
        facts={"test": worst.test, "n": worst.n, "p": worst.p_below, "upper": worst.upper},
    )

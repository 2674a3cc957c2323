"""How much the rows that calibrate matter: the metric of one recipe over its calibration draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from leanly.quantize import Static
from leanly.search.trial import Trial


def calibration_spread(trials: Sequence[Trial]) -> list[tuple[Trial, list[float]]]:
    """Return each trial that was calibrated again on other rows, with the metrics of all its draws on validation."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        passes = trial.recipe.passes
        if any(isinstance(step, Static) for step in passes) and trial.metric is not None and not trial.candidate.plans:
            first = (replace(step, draw=0) if isinstance(step, Static) else step for step in passes)
            same = replace(trial.recipe, passes=tuple(first))
            groups.setdefault((f"{trial.runtime} {trial.candidate.rest}", repr(same.to_json())), []).append(trial)
    return [
        (group[0], [trial.metric for trial in group if trial.metric is not None])
        for group in groups.values()
        if len(group) > 1
    ]

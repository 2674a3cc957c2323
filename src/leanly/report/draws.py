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
        last = trial.recipe.passes[-1] if trial.recipe.passes else None
        if isinstance(last, Static) and trial.metric is not None and not trial.candidate.plans:
            same = replace(trial.recipe, passes=(*trial.recipe.passes[:-1], replace(last, draw=0)))
            groups.setdefault((f"{trial.runtime} {trial.candidate.rest}", repr(same.to_json())), []).append(trial)
    return [
        (group[0], [trial.metric for trial in group if trial.metric is not None])
        for group in groups.values()
        if len(group) > 1
    ]

"""ResNet-56 cut and taught: leanly's channels and Torch-Pruning's, as many MACs left, same epochs, teacher, schedule.

Each side picks its criterion by a short try on validation; both are then taught alike and scored on test once.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import leanly
from bench.data import CACHE
from bench.drops import points_lost
from bench.entrants import BATCHES, THREADS
from bench.models.subjects import float_outputs, subject_named, taught_task
from bench.rows import Row, at_most, cached, code_version, told, versions
from bench.untrained import THEIRS, Theirs, their_way
from leanly.distill import Distill
from leanly.files import digest
from leanly.graph import Graph
from leanly.measurement import measure_in_turns
from leanly.prune import Channels, Refit, expected_gradient, fisher, gradient, magnitude, second_order
from leanly.target import Target
from leanly.training import Settings
from leanly.training.evaluation import evaluate

FEWER = (2.1, 2.6)
"""Times fewer MACs."""
EPOCHS = 12
TRIED = 6400
"""Training rows of a short try."""
CRITERIA = (expected_gradient, gradient, magnitude, second_order, fisher)
NO_DROP = 0.5
"""Points, on 6,000 rows."""
SETTINGS = Settings(batch_size=128, learning_rate=2e-3, augment=("crop", "flip"))
ROOMS = ("graph", "prune", "training", "distill")
Cut = Callable[[nn.Module, leanly.Task, float], Graph]


def rows(fewer: float, data_dir: Path, epochs: int = EPOCHS) -> list[Row]:
    """Return how both sides' accuracy and speed compare, and leanly's drop below the whole network."""
    subject = subject_named("resnet56")
    assert subject.train is not None
    train, validation, test = subject.train(data_dir), subject.validation(data_dir), subject.test(data_dir)
    model = subject.model(data_dir)
    task = taught_task(model, train, validation)
    gone = 1 - 1 / fewer
    sides: dict[str, dict[str, Cut]] = {
        "leanly": {criterion.__name__: _ours(criterion) for criterion in CRITERIA},
        "Torch-Pruning": {
            f"{criterion.name}, {'global' if together else 'by layer'}": _theirs(criterion, together)
            for criterion, together in itertools.product(THEIRS, (True, False))
        },
    }
    graphs: dict[str, Graph] = {}
    chosen: dict[str, str] = {}
    for side, cuts in sides.items():
        about = {
            "side": side, "gone": gone, "tried": TRIED, "settings": repr(SETTINGS),
            "code": code_version(__file__, rooms=ROOMS), **versions("torch-pruning", "torch"),
        }  # fmt: skip
        chosen[side] = cached("taught-cut-choice", about, lambda cuts=cuts: _choose(cuts, model, task, gone))
        key = {**about, "epochs": epochs}
        folder = CACHE / "taught-cut" / digest(key)[:16]
        graphs[side] = _taught(sides[side][chosen[side]](model, task, gone), task, epochs, folder)

    def right(graph: Graph) -> np.ndarray:
        with torch.no_grad():
            outputs = [graph.flat(part)[0] for part in torch.from_numpy(test.inputs[0]).split(100)]
        return (torch.cat(outputs).argmax(1).numpy() == test.targets).astype(float)

    whole = (float_outputs(model, test.inputs).argmax(1) == test.targets).astype(float)
    mine, theirs = right(graphs["leanly"]), right(graphs["Torch-Pruning"])
    title = f"ResNet-56, {fewer:g}x fewer MACs, {epochs} epochs: accuracy below"
    note = f"leanly {mine.mean():.2%} by {chosen['leanly']}; {_speeds(graphs)}"
    found = [_row(f"{title} Torch-Pruning's", theirs, mine, 0.0, f"{chosen['Torch-Pruning']}: {theirs.mean():.2%}")]
    if fewer == FEWER[0]:
        found.append(_row(f"{title} the whole network's", whole, mine, NO_DROP, f"whole {whole.mean():.2%}"))
    return [replace(row, note=note) for row in found]


def _ours(criterion: Callable[..., Any]) -> Cut:
    def cut(model: nn.Module, task: leanly.Task, gone: float) -> Graph:
        graph = leanly.capture(model, example=task.example).eval()
        return Refit()(Channels(macs=gone, importance=criterion)(graph, task), task)

    return cut


def _theirs(criterion: Theirs, together: bool) -> Cut:
    return lambda model, task, gone: their_way(criterion, together, gone)(model, task)


def _choose(cuts: dict[str, Cut], model: nn.Module, task: leanly.Task, gone: float) -> str:
    """Return the cut that is the best on validation after a short try."""
    torch.set_num_threads(THREADS)
    split = task.split("validation")
    assert split is not None
    scores = {}
    for name, cut in cuts.items():
        tried = Distill(epochs=1, rows=TRIED, settings=SETTINGS)(cut(model, task, gone), task)
        scores[name] = evaluate(tried, task, split)
        print(f"{gone:.1%} of the MACs off, {name}: {scores[name]:.4f} after {TRIED} rows", flush=True)
    return max(scores, key=lambda name: scores[name])


def _taught(graph: Graph, task: leanly.Task, epochs: int, folder: Path) -> Graph:
    """Teach, or go on where an earlier process was cut off."""
    torch.set_num_threads(THREADS)
    return Distill(epochs=epochs, settings=SETTINGS, folder=folder, progress=told("taught"))(graph, task).eval()


def _speeds(graphs: dict[str, Graph]) -> str:
    """Say what each takes in its faster float runtime."""
    told = []
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {
            (side, runtime): leanly.lower(graph, runtime=runtime, to=Path(folder) / side / runtime)
            for side, graph in graphs.items()
            for runtime in ("onnxruntime", "openvino")
        }
        found = measure_in_turns(list(artifacts.values()), Target("cpu", threads=THREADS, batch_sizes=BATCHES))
        for side in graphs:
            mine = [one for (whose, _), one in zip(artifacts, found, strict=True) if whose == side]
            times = [min(one.latency[size].median for one in mine) * 1e3 for size in BATCHES]
            told.append(f"{side} {' / '.join(f'{time:.2f}' for time in times)} ms")
    return f"float32, batch {' / '.join(map(str, BATCHES))}: {', '.join(told)}"


def _row(name: str, reference: np.ndarray, mine: np.ndarray, aim: float, peer: str) -> Row:
    reached = points_lost(reference, mine, aim)
    return Row(name, reached, "points", f"<= {aim:g}", peer, 1, at_most(reached, aim))

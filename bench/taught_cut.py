"""ResNet-56 cut and taught: leanly's channels and Torch-Pruning's, as many MACs left, same epochs, teacher, schedule.

Each side picks its criterion by a short try on validation; both are then taught alike and scored on test once.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import leanly
from bench.data import CACHE
from bench.drops import points_lost
from bench.entrants import BATCHES, THREADS
from bench.models.subjects import Rows, float_outputs, subject_named, taught_task
from bench.rows import Row, at_most, cached, code_version, told, versions
from bench.untrained import THEIRS, their_way
from leanly.distill import Distill
from leanly.files import digest
from leanly.graph import Graph
from leanly.measurement import measure_in_turns
from leanly.measurement.records import Latency
from leanly.prune import Channels, Refit, expected_gradient, fisher, gradient, magnitude, second_order
from leanly.target import Target
from leanly.training import Settings
from leanly.training.evaluation import evaluate

FEWER = (2.1, 2.6)
"""Times fewer MACs."""
EPOCHS = 8
TRIED = 6400
"""Training rows of a short try."""
Cut = Callable[[], Graph]
CRITERIA = (expected_gradient, gradient, magnitude, second_order, fisher)
BLOCKS = 9
"""Of each of the three stages."""
NO_DROP = 0.5
"""Points, on 6,000 rows."""
TARGET = Target("cpu", threads=THREADS, batch_sizes=BATCHES)
RUNTIMES = ("onnxruntime", "openvino")
SETTINGS = Settings(batch_size=128, optimizer="sgd", learning_rate=0.01, augment=("crop", "flip"))
ROOMS = ("graph", "prune", "training", "distill")


@dataclass(frozen=True)
class Matter:
    """The network and its rows.

    Args:
        model: the whole network, trained.
        task: teaches by the training rows and scores on validation.
        test: rows that are scored once.
    """

    model: nn.Module
    task: leanly.Task
    test: Rows

    def right(self, model: nn.Module | Graph) -> np.ndarray:
        """Return for each test row whether a network is right, 0 or 1."""
        return (float_outputs(model, self.test.inputs).argmax(1) == self.test.targets).astype(float)


def lay_out(data_dir: Path) -> Matter:
    """Return ResNet-56 and its rows."""
    subject = subject_named("resnet56")
    assert subject.train is not None
    model = subject.model(data_dir)
    return Matter(
        model, taught_task(model, subject.train(data_dir), subject.validation(data_dir)), subject.test(data_dir)
    )


def rows(fewer: float, data_dir: Path, epochs: int = EPOCHS) -> list[Row]:
    """Return how both sides' accuracy and speed compare, and leanly's drop below the whole network."""
    matter = lay_out(data_dir)
    name, ours = taught(f"leanly, {fewer:g}x fewer MACs", _our_cuts(matter, fewer), matter.task, epochs)
    peer, other = torch_pruning(fewer, matter, epochs)
    whole, mine, theirs = matter.right(matter.model), matter.right(ours), matter.right(other)
    title = f"ResNet-56, {fewer:g}x fewer MACs, {epochs} epochs: accuracy below"
    note = f"leanly {mine.mean():.2%} by {name}; {_speeds({'leanly': ours, 'Torch-Pruning': other})}"
    facts = {"peer": peer, "accuracy": float(theirs.mean()), "widths": inner_widths(other), "epochs": epochs}
    against = _row(f"{title} Torch-Pruning's", theirs, mine, 0.0, f"{peer}: {theirs.mean():.2%}")
    found = [replace(against, facts=facts)]
    if fewer == FEWER[0]:
        found.append(_row(f"{title} the whole network's", whole, mine, NO_DROP, f"whole {whole.mean():.2%}"))
    return [replace(row, note=note) for row in found]


def part_name(fewer: float) -> str:
    """Return what `--rows` and the result file call the comparison at so many times fewer MACs."""
    return f"resnet56-{fewer:g}x"


def inner_widths(graph: Graph) -> list[int]:
    """Return how many channels each block has between its convolutions, the only ones that Torch-Pruning cuts."""
    weights = dict(graph.named_parameters())
    return [len(weights[f"layer{stage}.{block}.conv1.weight"]) for stage in (1, 2, 3) for block in range(BLOCKS)]


def torch_pruning(fewer: float, matter: Matter, epochs: int) -> tuple[str, Graph]:
    """Return the name of Torch-Pruning's best criterion for so many times fewer MACs, and its cut network, taught."""
    cuts = {
        f"{criterion.name}, {'global' if together else 'by layer'}": partial(
            their_way(criterion, together, 1 - 1 / fewer), matter.model, matter.task
        )
        for criterion, together in itertools.product(THEIRS, (True, False))
    }
    return taught(f"Torch-Pruning, {fewer:g}x fewer MACs", cuts, matter.task, epochs)


def _our_cuts(matter: Matter, fewer: float) -> dict[str, Cut]:
    def cut(criterion: Callable[..., Any]) -> Graph:
        graph = leanly.capture(matter.model, example=matter.task.example).eval()
        return Refit()(Channels(macs=1 - 1 / fewer, importance=criterion)(graph, matter.task), matter.task)

    return {criterion.__name__: partial(cut, criterion) for criterion in CRITERIA}


def taught(title: str, cuts: Mapping[str, Cut], task: leanly.Task, epochs: int) -> tuple[str, Graph]:
    """Choose the best of some cuts by a short try of each, and teach it, or go on where an earlier process was cut off.

    Args:
        title: of all of them: what stands for them in the cache.
        cuts: each makes a cut network.
        task: teaches and validates.
        epochs: of the chosen one.
    """
    torch.set_num_threads(THREADS)
    about = {
        "title": title, "cuts": list(cuts), "tried": TRIED, "settings": repr(SETTINGS),
        "code": code_version(__file__, rooms=ROOMS), **versions("torch-pruning", "torch"),
    }  # fmt: skip
    name = cached("taught-cut-choice", about, partial(_choose, title, cuts, task))
    folder = CACHE / "taught-cut" / digest({**about, "epochs": epochs})[:16]
    return name, Distill(epochs=epochs, settings=SETTINGS, folder=folder, progress=told(title))(
        cuts[name](), task
    ).eval()


def _choose(title: str, cuts: Mapping[str, Cut], task: leanly.Task) -> str:
    """Return the cut that is the best on validation after a short try."""
    split = task.split("validation")
    assert split is not None
    scores = {}
    for name, cut in cuts.items():
        tried = Distill(epochs=1, rows=TRIED, settings=SETTINGS)(cut(), task)
        scores[name] = evaluate(tried, task, split)
        print(f"{title}, {name}: {scores[name]:.4f} after {TRIED} rows", flush=True)
    return max(scores, key=lambda name: scores[name])


def latencies(graphs: Mapping[str, Graph]) -> dict[str, dict[int, Latency]]:
    """Return what each graph takes in its faster float runtime, by batch size; all are measured in turns."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {
            (side, runtime): leanly.lower(graph, runtime=runtime, to=Path(folder) / f"{number}" / runtime)
            for number, (side, graph) in enumerate(graphs.items())
            for runtime in RUNTIMES
        }
        found = measure_in_turns(list(artifacts.values()), TARGET)
    return {
        side: {
            size: min(
                (one.latency[size] for (whose, _), one in zip(artifacts, found, strict=True) if whose == side),
                key=lambda latency: latency.median,
            )
            for size in BATCHES
        }
        for side in graphs
    }


def _speeds(graphs: Mapping[str, Graph]) -> str:
    told = [
        f"{side} {' / '.join(f'{by_size[size].median * 1e3:.2f}' for size in BATCHES)} ms"
        for side, by_size in latencies(graphs).items()
    ]
    return f"float32, batch {' / '.join(map(str, BATCHES))}: {', '.join(told)}"


def _row(name: str, reference: np.ndarray, mine: np.ndarray, aim: float, peer: str) -> Row:
    reached = points_lost(reference, mine, aim)
    return Row(name, reached, "points", f"<= {aim:g}", peer, 1, at_most(reached, aim))

"""Whether zeros of single weights save time: a network with most weights gone against the same one, dense.

`prune.Sparse` says that they take less storage and no time off; here is what the runtimes make of them.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import leanly
from bench.entrants import BATCHES, THREADS
from bench.pooled import pooled_ratio
from bench.rows import Row, at_least
from leanly.measurement import measure_in_turns
from leanly.prune import Sparse, magnitude
from leanly.quantize import Static
from leanly.recipe import Recipe
from leanly.target import Target

NO_FASTER = 0.95
SECONDS, PROCESSES = 8.0, 2
"""Of timing for each artifact and batch size, and processes that share them: what is looked for is a few percent."""
LINEAR, CONVOLUTION = "4 linear layers of 1024", "4 convolutions of 128 channels at 28 x 28"
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    LINEAR: (lambda: nn.Linear(1024, 1024), (1024,)),
    CONVOLUTION: (lambda: nn.Conv2d(128, 128, 3, padding=1), (128, 28, 28)),
}
CUTS = {
    "90 % of the weights zero": Sparse(sparsity=0.9, importance=magnitude),
    "2 of every 4 weights zero": Sparse(pattern=(2, 4), importance=magnitude),
}
FORMS = tuple(itertools.product(("onnxruntime", "openvino"), ("float32", "int8")))


def rows() -> list[Row]:
    """Return for each network and way to thin it out the time it takes where it saves most."""
    return [row for name in NETWORKS for row in _of_network(name)]


def _of_network(name: str) -> list[Row]:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (make(), nn.ReLU())]
    model, x = nn.Sequential(*layers[:-1]).eval(), torch.randn(64, *shape)
    task = leanly.Task(model, example=x[:2], train=(x, None))
    graph = leanly.capture(model, example=x[:2])
    target = Target("cpu", threads=THREADS, batch_sizes=BATCHES)
    cuts = {"dense": Recipe(), **{cut: Recipe((step,)) for cut, step in CUTS.items()}}
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {}
        for (cut, recipe), (runtime, precision) in itertools.product(cuts.items(), FORMS):
            thin = recipe(graph, task)
            made = Static(kernels=runtime)(thin, task) if precision == "int8" else thin
            to = Path(folder) / f"{len(artifacts)}"
            artifacts[cut, runtime, precision] = leanly.lower(made, runtime=runtime, to=to, precision=precision)
        timed = measure_in_turns(list(artifacts.values()), target, seconds=SECONDS, processes=PROCESSES)
        found = dict(zip(artifacts, timed, strict=True))
    made = []
    for cut, batch in itertools.product(CUTS, BATCHES):
        ratios = {}
        for runtime, precision in FORMS:
            thin, dense = (found[which, runtime, precision].latency[batch] for which in (cut, "dense"))
            ratios[f"{runtime}, {precision}"] = pooled_ratio([(thin, dense)], seed=0).interval
        least = min(ratios, key=lambda form: ratios[form].value)
        made.append(
            Row(
                name=f"{name}, {cut}, batch {batch}: time over the dense network's",
                reached=ratios[least],
                unit="x, where it is least",
                aim=f">= {NO_FASTER:g}: labelled storage-only",
                peer=f"the dense network, {least}",
                seeds=1,
                outcome=at_least(ratios[least], NO_FASTER),
                note="; ".join(f"{form} {ratio.value:.2f}" for form, ratio in ratios.items()),
            )
        )
    return made

"""`leanly profile A`"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leanly.cli.options import TASK_HELP, PublicKey, Threads, read_target
from leanly.cli.sensitivity import ROWS, Losses, find_losses
from leanly.cli.tables import table

if TYPE_CHECKING:
    from leanly.artifact import Artifact
    from leanly.graph import Graph
    from leanly.task import Task


def profile(
    a: Annotated[Path, typer.Argument(help="A bundle, or a folder that leanly.lower made.", metavar="A")],
    batch_size: Annotated[int, typer.Option(help="Rows in a call.", min=1)] = 1,
    threads: Threads = None,
    task: Annotated[
        str, typer.Option(help=f"Say what each layer loses by being quantized alone, too. {TASK_HELP}")
    ] = "",
    public_key: PublicKey = None,
) -> None:
    """List each node as the runtime runs it here, its kernel and its time; then what each layer costs and loses.

    A bundle's layers are timed in float32 too, in the same runtime. Times are the runtime's own count of one call. What
    a layer loses is of the bits that the bundle's recipe gives it; a float bundle's layers are tried in 8 bits.
    """
    from leanly.cli.finding import find_artifacts, find_recipes, find_task, nearest
    from leanly.measurement import profile as node_seconds
    from leanly.runtimes import read_kernels
    from leanly.search import words

    if threads is not None:
        read_target(threads, str(batch_size))  # refuses what is no number of threads
    artifact = find_artifacts(a, (batch_size,), public_key)[batch_size]
    job = find_task(task) if task else None
    threads = threads or _threads(artifact, batch_size)
    kernels = read_kernels(artifact)
    seconds = node_seconds(artifact, job, batch_size=batch_size, threads=threads)
    print(
        f"{artifact.precision}, {artifact.runtime}, batch {batch_size}, {_plural(threads, 'thread')}: "
        f"{len(kernels)} nodes as run on this machine\n"
    )
    print(
        table(
            ["node", "operator", "precision", "kernel", "time"],
            [
                [node.name, node.operator, node.precision, node.implementation, _time(seconds.get(node.name))]
                for node in kernels
            ],
            right=(4,),
        )
    )
    counted = Counter(node.precision for node in kernels)
    print("\n" + ", ".join(f"{count} {precision}" for precision, count in counted.most_common()))
    if not seconds:
        print(
            f"no times: {artifact.runtime} does not tell what a node takes; ONNX Runtime and OpenVINO do (leanly.lower)"
        )
    for sentence in words.storage_only(artifact):
        print(sentence)
    if (a / "graph").is_dir():
        from leanly.families.candidate import parts
        from leanly.graph import Graph
        from leanly.recipe import Recipe

        recipes = find_recipes(a, public_key) or {batch_size: Recipe()}
        held, recipe = next(iter(recipes)), nearest(recipes, batch_size)
        if parts(recipe)[0] != parts(recipes[held])[0]:
            print(f"no layers: {a} holds the network that runs at batch {held}, at batch {batch_size} another runs")
            return
        artifact = replace(artifact, proven=kernels)
        graph = Graph.open(a / "graph")
        losses = find_losses(graph, artifact, recipe, job) if job is not None else None
        _print_layers(graph, artifact, seconds, job, losses, batch_size, threads)
    elif job is not None:
        print(f"no losses by layer: {a} holds no captured model to quantize; a bundle of leanly optimize does")


def _print_layers(
    graph: Graph,
    artifact: Artifact,
    seconds: dict[str, float],
    job: Task | None,
    losses: Losses | None,
    batch_size: int,
    threads: int,
) -> None:
    from leanly.measurement.attribution import layer_seconds
    from leanly.search import words

    cost = graph.cost(batch_size)
    nodes = [node for node in cost.nodes if node.macs or node.parameters]
    names = [node.name for node in nodes]
    ours = layer_seconds(graph, names, artifact.proven, seconds)
    theirs = {} if artifact.precision == "float32" else _float_seconds(graph, artifact, job, batch_size, threads, names)
    columns: list[tuple[str, bool, Any]] = [
        ("layer", False, lambda node: node.name),
        ("operator", False, lambda node: node.operator),
        ("output", False, lambda node: "x".join(map(str, node.output_shape))),
        ("MACs", True, lambda node: words.count(node.macs)),
        ("share", True, lambda node: f"{100 * node.macs / max(cost.macs, 1):.1f} %"),
        ("parameters", True, lambda node: words.count(node.parameters)),
        ("bytes", True, lambda node: words.size(node.parameter_bytes)),
        ("source", False, lambda node: node.source),
    ]
    if losses is not None and losses.bits:
        assert job is not None
        columns[5:5] = [
            ("bits", False, lambda node: losses.bits.get(node.name, "-")),
            ("SQNR", True, lambda node: _sqnr(losses.errors.get(node.name))),
            (f"{job.metric.name} lost", True, lambda node: _lost(losses.drops.get(node.name), job.metric.name)),
        ]
    if theirs:
        columns.insert(5, ("float32", True, lambda node: _time(theirs.get(node.name))))
    if ours:
        columns.insert(5, (artifact.precision, True, lambda node: _time(ours.get(node.name))))
    print(f"\nThe captured model, batch {batch_size}: what each layer multiplies, takes and holds\n")
    rows = [[read(node) for _, _, read in columns] for node in nodes]
    whole = {
        "layer": "all",
        "MACs": words.count(cost.macs),
        "share": "100 %",
        artifact.precision: _time(sum(ours.values())),
        "float32": _time(sum((theirs or ours).values())),
        "parameters": words.count(cost.parameters),
        "bytes": words.size(cost.parameter_bytes),
    }
    rows.append([whole.get(title, "") for title, _, _ in columns])
    print(table([title for title, _, _ in columns], rows, right=[i for i, column in enumerate(columns) if column[1]]))
    if losses is not None and losses.bits:
        print(
            f"\nbits: of weights (W) and of what they multiply (A), quantized {losses.told}.\nSQNR: signal to error in "
            f"decibels of the layer's output where it alone is quantized so; what is lost: the same over the first "
            f"{ROWS} rows of validation (below 0: gained)."
        )
    elif losses is not None:
        print(f"\nno losses by layer: {losses.told}")


def _float_seconds(
    graph: Graph, artifact: Artifact, job: Task | None, batch_size: int, threads: int, names: list[str]
) -> dict[str, float]:
    """Time the layers of the captured model in float32, in the artifact's runtime."""
    from leanly.lowering import lower
    from leanly.measurement import profile as node_seconds
    from leanly.measurement.attribution import layer_seconds

    with tempfile.TemporaryDirectory() as folder:
        twin = lower(graph, runtime=artifact.runtime, to=Path(folder) / "float32")
        seconds = node_seconds(twin, job, batch_size=batch_size, threads=threads)
    return layer_seconds(graph, [name for name in names if name in _names(graph)], twin.proven, seconds)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count > 1 else ''}"


def _threads(artifact: Artifact, batch_size: int) -> int:
    plan = artifact.plans.get(batch_size)
    return plan.threads if plan else os.cpu_count() or 1


def _names(graph: Graph) -> set[str]:
    return {node.name for node in graph.module.graph.nodes}


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e6 * seconds:.1f} us"


def _sqnr(error: float | None) -> str:
    if error is None:
        return "-"
    return "exact" if error == 0 else f"{-10 * math.log10(error):.1f} dB"


def _lost(drop: float | None, metric: str) -> str:
    from leanly.search import words

    return "-" if drop is None else words.drop(drop, metric)

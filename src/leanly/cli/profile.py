"""`leanly profile A`"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from leanly.cli.options import PublicKey
from leanly.cli.tables import table


def profile(
    a: Annotated[Path, typer.Argument(help="A bundle, or a folder that leanly.lower made.", metavar="A")],
    batch_size: Annotated[int, typer.Option(help="Rows in a call.", min=1)] = 1,
    public_key: PublicKey = None,
) -> None:
    """List each node as the runtime runs it here, with the precision of its kernel, and what each layer costs."""
    from leanly.cli.finding import find_artifacts
    from leanly.runtimes import read_kernels

    artifact = find_artifacts(a, (batch_size,), public_key)[batch_size]
    kernels = read_kernels(artifact)
    print(
        f"{artifact.precision}, {artifact.runtime}, batch {batch_size}: {len(kernels)} nodes as run on this machine\n"
    )
    print(
        table(
            ["node", "operator", "precision", "kernel"],
            [[node.name, node.operator, node.precision, node.implementation] for node in kernels],
        )
    )
    counted = Counter(node.precision for node in kernels)
    print("\n" + ", ".join(f"{count} {precision}" for precision, count in counted.most_common()))
    if (a / "graph").is_dir():
        _print_cost(a / "graph", batch_size)


def _print_cost(folder: Path, batch_size: int) -> None:
    from leanly.graph import Graph
    from leanly.search import words

    cost = Graph.open(folder).cost(batch_size)
    nodes = [node for node in cost.nodes if node.macs or node.parameters]
    print(f"\nThe captured model, batch {batch_size}: what each layer multiplies and holds\n")
    rows = [
        [
            node.name,
            node.operator,
            "x".join(map(str, node.output_shape)),
            words.count(node.macs),
            f"{100 * node.macs / max(cost.macs, 1):.1f} %",
            words.count(node.parameters),
            words.size(node.parameter_bytes),
            node.source,
        ]
        for node in nodes
    ]
    rows.append(
        [
            "all",
            "",
            "",
            words.count(cost.macs),
            "100 %",
            words.count(cost.parameters),
            words.size(cost.parameter_bytes),
            "",
        ]
    )
    header = ["layer", "operator", "output", "MACs", "share", "parameters", "bytes", "source"]
    print(table(header, rows, right=(3, 4, 5, 6)))

"""A process of its own that opens graphs, shared by all situations: starting one takes longer than most of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_READER = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from leanly.graph import Graph
for line in sys.stdin:
    folder = line.strip()
    inputs = load_file(folder + "/inputs.safetensors")
    graph = Graph.open(folder + "/graph")
    found = graph.flat(*(inputs[str(place)] for place in range(len(inputs))))
    gone = {name: kept is None for name, kept in graph.kept.items()}
    Path(folder, "gone.json").write_text(json.dumps(gone))
    outputs = {str(place): tensor.detach().contiguous() for place, tensor in enumerate(found)}
    save_file(outputs, folder + "/outputs.safetensors")
    print("done", flush=True)
"""


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Callable[[Path], None]]:
    """Return a function that makes another process run `folder/graph` on `inputs`; it leaves `outputs` there, and
    which of the parameters that were cut are `gone`.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None and process.stdout is not None

    def run(folder: Path) -> None:
        print(folder, file=process.stdin, flush=True)
        assert process.stdout.readline() == "done\n"

    yield run
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()

"""Networks that a benchmark trains: kept once trained, so that this can be done apart, on a machine with a GPU.

What is learned is the same work there. Lowering, scoring and timing stay where the benchmark runs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data import CACHE
from leanly.files import digest, read_json, write_json
from leanly.graph import Graph
from leanly.target import Target


@dataclass(frozen=True)
class Training:
    """One network to be trained.

    Args:
        name: of the case.
        key: what its weights follow from.
        make: `(device, folder of checkpoints) -> graph`.
    """

    name: str
    key: dict[str, Any]
    make: Callable[[str, Path], Graph]

    @property
    def folder(self) -> Path:
        """Where network, checkpoints and what is known of the training lie."""
        return CACHE / "trained" / f"{self.name}-{digest(self.key)[:16]}"

    def graph(self, device: str = "cpu") -> Graph:
        """Return the trained network, on the CPU; it is trained on `device` unless it was before."""
        kept, facts = self.folder / "graph", self.folder / "facts.json"
        if not facts.exists():
            begun = time.monotonic()
            self.make(device, self.folder / "checkpoints").to("cpu").save(kept)
            target = Target(device)
            machine = dataclasses.asdict(target.machine)
            about = {"processor": machine["processor"], "cuda": machine["cuda"], "versions": target.versions()}
            write_json(facts, {"key": self.key, "seconds": time.monotonic() - begun, **about})
        return Graph.open(kept)

    @property
    def told(self) -> str:
        """Where it was trained and how long that took."""
        facts = read_json(self.folder / "facts.json")
        return f"trained on {facts['cuda'] or facts['processor']} in {facts['seconds']:.0f} s"

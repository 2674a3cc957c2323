"""What calibration adds to memory: MiniLM on 2,000 sentences, ResNet-50 on 2,000 images that are made as they are read.

Each case runs in a process of its own: the network is loaded, captured and run once, then the peak of resident memory
is set back and a pass calibrates: `quantize.Static`, or one that goes through the network part by part behind it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import leanly
from bench.data import sst2
from bench.entrants import THREADS
from bench.models import minilm
from bench.rows import Row, at_most, cached, code_version, versions
from leanly.measurement.records import Interval
from leanly.measurement.worker_main import peak_memory
from leanly.quantize import GPTQ, CorrectBias, Reconstruct, Static
from leanly.recipe import Pass
from leanly.target import Target

SAMPLES = 2000
QUICK_SAMPLES = 200
BEFORE = 16
"""Rows that calibrate the integers which the other passes start from."""
STEPS = 10
"""Of learning the roundings of a part: more take no more memory."""
GIB = 2**30


class Noise(torch.utils.data.Dataset):
    """Images of 224 x 224 that are made when they are asked for: 2,000 of them at once would take 1.2 GB."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 224, 224, generator=generator), index % 1000


def _minilm(data_dir: Path) -> leanly.Task:
    texts = sst2(data_dir, "train").texts[:SAMPLES]
    ids, mask = minilm.tokenize(texts)
    targets = np.zeros((len(ids), 384), np.float32)
    return leanly.Task(minilm.load(), example=(ids[:2], mask[:2]), train=((ids, mask), targets), metric=_zero)


def _zero(outputs: object, targets: object) -> float:
    return 0.0


def _resnet50(data_dir: Path) -> leanly.Task:
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.network = ResNetForImageClassification(ResNetConfig())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x).logits

    return leanly.Task(Logits().eval(), example=torch.randn(2, 3, 224, 224), train=Noise())


CASES: dict[str, tuple[str, Callable[[Path], leanly.Task]]] = {
    "minilm": ("MiniLM-L6 at length 128, sentences of SST-2", _minilm),
    "resnet50": ("ResNet-50, images of noise", _resnet50),
}
PASSES: dict[str, Callable[[int], Pass]] = {
    "Static": lambda samples: Static(samples=samples),
    "CorrectBias": lambda samples: CorrectBias(samples=samples),
    "GPTQ": lambda samples: GPTQ(samples=samples),
    "Reconstruct": lambda samples: Reconstruct(samples=samples, iterations=STEPS),
}


def calibrate(name: str, method: str, data_dir: Path, samples: int) -> dict[str, Any]:
    """Calibrate in this process; return bytes of resident memory, before and at most on the way, and the notes."""
    torch.set_num_threads(THREADS)
    task = CASES[name][1](data_dir)
    target = Target("cpu", threads=THREADS)
    graph = leanly.capture(task.model, example=task.example)
    if method != "Static":
        graph = Static(samples=BEFORE)(graph, task, target)
    with torch.no_grad():
        graph.eval().flat(*graph.example)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    done = PASSES[method](samples)(graph, task, target)
    after = peak_memory()
    assert before is not None and after is not None
    return {"before": before, "peak": after, "notes": [note for note in done.notes if " calibration rows" in note]}


def row(name: str, method: str, data_dir: Path, samples: int) -> Row:
    """Run a case in a process of its own, unless this code has done so on this machine before: each takes minutes."""
    command = [sys.executable, "-m", "bench.memory", "--data-dir", str(data_dir), "--case", name, "--pass", method]

    def run() -> dict[str, Any]:
        done = subprocess.run([*command, "--samples", str(samples)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{name}, {method}: {done.stderr[-2000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    code = code_version(__file__, rooms=("graph", "quantize"))
    key = {"case": name, "pass": method, "samples": samples, "code": code, **versions("torch")}
    found = cached(f"memory-{name}", key, run)
    added = (found["peak"] - found["before"]) / GIB
    print(f"{name}, {method}: {added:.2f} GiB", flush=True)
    before = f"{found['before'] / GIB:.2f} GiB before, with the network captured and run once"
    reached = Interval(added, added, added)
    return Row(
        name=f"{CASES[name][0]}: {samples:,} rows, memory that {method} adds",
        reached=reached,
        unit="GiB",
        aim="< 1 GiB",
        peer="",
        seeds=1,
        outcome=at_most(reached, 1.0),
        note="; ".join([before, *found["notes"]]),
    )


def rows(data_dir: Path, quick: bool) -> list[Row]:
    """Return a row a case and pass; of `Static` alone where it is to be quick."""
    samples, methods = (QUICK_SAMPLES, ["Static"]) if quick else (SAMPLES, list(PASSES))
    return [row(name, method, data_dir, samples) for name in CASES for method in methods]


def main() -> int:
    """Calibrate one case in this process and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=main.__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--case", choices=CASES, required=True)
    parser.add_argument("--pass", dest="method", choices=PASSES, required=True)
    parser.add_argument("--samples", type=int, required=True)
    options = parser.parse_args()
    print(json.dumps(calibrate(options.case, options.method, options.data_dir, options.samples)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

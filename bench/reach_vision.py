"""How far the cut reaches: every classification model of torchvision captured, cut by a share of its MACs, and checked.

    python -m bench.reach_vision --torchvision FOLDER [--models resnet18,vit_b_16] [--limit 10]

`FOLDER` holds torchvision 0.28.0 (`pip install --no-deps --target FOLDER torchvision==0.28.0`). Weights are random. A
cut is exact when the cut graph gives what the whole one gives with everything removed set to zero. Torch-Pruning stands
beside it: there a cut counts when the network still runs. What was found of a model is kept under the cache, so that
the benchmark is run in pieces; the table shows what is there so far.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import leanly
from bench.data import CACHE
from bench.rows import Row, cached, code_version, exit_code, print_lines, print_table, versions, write_results
from bench.zeroing import zeroed
from leanly.files import digest, sha256
from leanly.graph import Graph, tensors
from leanly.measurement.records import Interval
from leanly.prune import Channels
from leanly.target import Target

SHARE, ENOUGH = 0.4, 0.8
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest output; what was removed makes a far larger one."""
SIZES = {"inception_v3": 299}
AIM = 76
PEER_SECONDS = 180
"""Some models never end in Torch-Pruning."""


def load_torchvision(folder: Path, tools: Path) -> Any:
    """Import torchvision from a folder, beside a torch that has not its operators."""
    sys.path[:0] = [str(folder), str(tools)]
    import torchvision_cpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    from torchvision import models  # pyright: ignore[reportMissingImports]

    return models


def model_named(models: Any, name: str) -> nn.Module:
    """Return a model with random weights, none of which hides what is behind it."""
    torch.manual_seed(0)
    settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lively(models.get_model(name, weights=None, **settings)).eval()


def lively(model: nn.Module) -> nn.Module:
    """Replace constants: a head of zeros or a layer scale of 1e-6 would make every cut look exact."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in tensors.every(model).items():
            noise = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else None
            if noise is None or tensor.numel() < 2 or bool((tensor != tensor.reshape(-1)[0]).any()):
                continue
            if isinstance(tensor, nn.Parameter) and tensor.ndim == 2:
                tensor.copy_(noise / tensor.shape[1] ** 0.5)
            elif isinstance(tensor, nn.Parameter) or "running" in name:
                start = float(tensor.reshape(-1)[0])
                tensor.copy_((0.0 if start == 0 else 1.0) + 0.2 * noise.tanh())
    return model


def reach(models: Any, name: str) -> dict[str, Any]:
    """Capture one model, cut it and compare; return what came of it."""
    size = SIZES.get(name, 224)
    found: dict[str, Any] = {"captured": False, "exact": False, "reached": 0.0}
    started = time.perf_counter()
    try:
        graph = leanly.capture(model_named(models, name), example=torch.randn(2, 3, size, size))
    except leanly.LeanlyError as error:
        return {**found, "told": str(error)}
    found |= {"captured": True, "seconds to capture": time.perf_counter() - started}
    started = time.perf_counter()
    try:
        small = Channels(macs=SHARE, normalized=False)(graph)
    except leanly.LeanlyError as error:
        return {**found, "told": str(error)}
    found["seconds to couple and cut"] = time.perf_counter() - started
    found["reached"] = 1 - small.cost().macs / graph.cost().macs
    found["told"] = "; ".join(note for note in small.notes if note.startswith("prune."))
    return found | compare(graph, small, size)


def compare(graph: Graph, small: Graph, size: int) -> dict[str, Any]:
    """Compare a cut graph with the whole one in which all that was removed is zero, at two batch sizes."""
    whole = zeroed(graph, small)
    off = changed = 0.0
    with torch.no_grad():
        x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
        before = graph.flat(x)[0]
        for rows in (1, 3):
            expected, got = whole.flat(x[:rows])[0], small.flat(x[:rows])[0]
            scale = float(expected.abs().max())
            off = max(off, float((got - expected).abs().max()) / scale)
            changed = float((before[:rows] - expected).abs().max()) / scale
    return {"off": off, "changed": changed, "exact": bool(off <= TOLERANCE < changed and math.isfinite(off))}


def peer_reach(name: str, torchvision: Path, tools: Path) -> dict[str, Any]:
    """Return what came of the model in Torch-Pruning, in a process of its own."""
    command = [sys.executable, "-m", "bench.peer_reach", name, "--torchvision", torchvision, "--tools", tools]
    try:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            timeout=PEER_SECONDS,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return {"runs": False, "reached": 0.0, "told": f"not done after {PEER_SECONDS} s"}
    if done.returncode:
        return {"runs": False, "reached": 0.0, "told": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def enough(found: dict[str, Any]) -> bool:
    """Say whether a model was cut exactly and by most of what was asked for."""
    return bool(found["exact"] and found["reached"] >= ENOUGH * SHARE)


def main() -> int:
    """Run what is missing, print the table, and return 1 when all models were tried and too few were cut."""
    parser = argparse.ArgumentParser(prog="python -m bench.reach_vision", description=__doc__)
    parser.add_argument("--torchvision", type=Path, required=True, help="where torchvision was installed")
    parser.add_argument("--tools", type=Path, default=Path("../shared/tools"))
    parser.add_argument("--models", help="names, by commas; default all")
    parser.add_argument("--limit", type=int, help="run at most so many that are missing")
    options = parser.parse_args()
    models = load_torchvision(options.torchvision, options.tools)
    known = models.list_models(module=models)
    names = options.models.split(",") if options.models else known
    if set(names) - set(known):
        parser.error(f"no such models: {', '.join(set(names) - set(known))}")
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    beside: dict[str, dict[str, Any]] = {}
    ran = 0
    for name in names:
        key = {"model": name, "share": SHARE, "code": code_version(__file__)}
        there = (CACHE / "rows" / f"reach-{digest(key)[:20]}.json").exists()
        if not there and options.limit is not None and ran >= options.limit:
            continue
        ran += not there
        found[name] = cached("reach", key, lambda name=name: reach(models, name))
        peer_key = {
            "model": name,
            "share": SHARE,
            "code": sha256(Path(__file__).with_name("peer_reach.py")),
            **versions("torch-pruning"),
        }
        beside[name] = cached(
            "reach-peer", peer_key, lambda name=name: peer_reach(name, options.torchvision, options.tools)
        )
        if not there:
            print(name, found[name], beside[name], flush=True)
    headings = ("model", "captured", "reached", "off", "seconds", "told", "Torch-Pruning")
    print_lines("torchvision's models", headings, _lines(found, beside))
    captured, cut = sum(one["captured"] for one in found.values()), sum(map(enough, found.values()))
    peer = sum(one["runs"] and one["reached"] >= ENOUGH * SHARE for one in beside.values())
    rows = [
        _row("captured", captured, len(known), len(found), ""),
        _row(
            f"cut exactly, at least {ENOUGH:g} of {SHARE:.0%} of the MACs",
            cut,
            AIM,
            len(found),
            f"Torch-Pruning: {peer} cut as much and run",
        ),
    ]
    print_table("torchvision's classification models", rows)
    if len(found) < len(known):
        return 0
    about = {"share": SHARE, "enough": ENOUGH, "tolerance": TOLERANCE, "Torch-Pruning": versions("torch-pruning")}
    more = {"models": found, "Torch-Pruning": beside}
    print(f"written to {write_results('reach_vision', rows, Target('cpu', threads=1), about, more)}")
    return exit_code(rows)


def _lines(found: dict[str, dict[str, Any]], beside: dict[str, dict[str, Any]]) -> list[list[str]]:
    return [
        [
            name,
            "yes" if one["captured"] else "no",
            f"{one['reached']:.3f}",
            f"{one.get('off', math.nan):.1e}",
            f"{one.get('seconds to couple and cut', math.nan):.1f}",
            one["told"][:60],
            f"{beside[name]['reached']:.3f}" if beside[name]["runs"] else beside[name]["told"][:60],
        ]
        for name, one in found.items()
    ]


def _row(name: str, count: int, aim: int, tried: int, peer: str) -> Row:
    outcome = "ok" if count >= aim else "undecided" if tried < 80 else "short"
    return Row(name, Interval(count, count, count), f"of {tried}", f">= {aim}", peer, 1, outcome)


if __name__ == "__main__":
    sys.exit(main())

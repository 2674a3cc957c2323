"""How far the cut reaches: whole corpora of architectures captured, cut, checked, trained on and lowered.

    python -m bench.reach [--torchvision FOLDER] [--models resnet18,BertModel] [--limit 10]

All classification models of torchvision 0.28 (`FOLDER` holds it: `pip install --no-deps --target FOLDER
torchvision==0.28.0`; left out without it) and architectures of transformers in tiny configurations, with random
weights. Of each, 30, 40 and 50 % of the MACs are asked for. A cut counts where at least 0.8 of that left, the cut graph
gives what the whole one gives with everything removed set to zero, it takes a step of training, and its ONNX file gives
the same in ONNX Runtime for 1, 3 and 8 rows. Torch-Pruning stands beside it: there a cut counts when as much left and
the network still runs for two batch sizes. What was found of a model is kept under the cache, so that the benchmark is
run in pieces; the table shows what is there so far.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leanly
from bench.data import CACHE
from bench.models import corpus
from bench.rows import Row, cached, code_version, exit_code, print_lines, print_table, versions, write_part
from bench.zeroing import zeroed
from leanly.files import digest, sha256
from leanly.graph import Graph, tensors
from leanly.measurement.records import Interval
from leanly.prune import Channels
from leanly.runtimes import open_artifact
from leanly.target import Target

SHARES, ENOUGH = (0.3, 0.4, 0.5), 0.8
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest output; what was removed makes a far larger one."""
BATCHES = (1, 3, 8)
SIZES = {"inception_v3": 299}
VISION, TEXT = "torchvision", "transformers"
AIMS = {VISION: {0.3: 1.0, 0.4: 76 / 80, 0.5: 1.0}, TEXT: {0.3: 0.95, 0.4: 0.95, 0.5: 0.95}}
"""Share of a corpus that is to be cut, by the share of the MACs."""
ROOMS = ("graph", "prune", "lowering", "runtimes")
"""Folders of the package that the outcome comes from."""
PEER_SECONDS = 180
"""Some models never end in Torch-Pruning."""

Example = dict[str, Tensor]


def load_torchvision(folder: Path, tools: Path) -> Any:
    """Import torchvision from a folder, beside a torch that has not its operators."""
    sys.path[:0] = [str(folder), str(tools)]
    import torchvision_cpu  # noqa: F401  # pyright: ignore[reportMissingImports]
    from torchvision import models  # pyright: ignore[reportMissingImports]

    return models


def model_named(models: Any, name: str) -> tuple[nn.Module, Example]:
    """Return a model with random weights, none of which hides what is behind it, and what it is given for two rows.

    Args:
        models: torchvision's; None for an architecture of transformers.
        name: of the model.
    """
    torch.manual_seed(0)
    if models is None:
        model, example = corpus.build(corpus.ARCHITECTURES[name])
        return lively(model).eval(), example
    settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lively(models.get_model(name, weights=None, **settings)).eval(), {"x": _pictures(name, 2)}


def rows_for(models: Any, name: str, rows: int) -> Example:
    """Return what a model is given for so many rows."""
    return {"x": _pictures(name, rows)} if models is not None else corpus.ARCHITECTURES[name].example(rows)


def _pictures(name: str, rows: int) -> Tensor:
    size = SIZES.get(name, 224)
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(rows))


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
    """Capture one model, cut it by each share and check; return what came of it."""
    model, example = model_named(models, name)
    started = time.perf_counter()
    try:
        graph, told = captured(model, example)
    except leanly.LeanlyError as error:
        return {"captured": False, "told": str(error), "cuts": {}}
    found = {"captured": True, "seconds to capture": time.perf_counter() - started, "told": told}
    given = [list(rows_for(models, name, rows).values()) for rows in BATCHES]
    before = outputs(graph, given)
    return {**found, "cuts": {str(share): cut(graph, share, given, before) for share in SHARES}}


def captured(model: nn.Module, example: Example) -> tuple[Graph, str]:
    """Capture with a length that varies where text is given; where that fails, with a fixed one, and say so."""
    dynamic: Mapping[str, Any] = {name: {1: "length"} for name in ("input_ids", "attention_mask") if name in example}
    if list(example) == ["x"]:
        return leanly.capture(model, example=(example["x"],)), ""
    try:
        return leanly.capture(model, example=example, dynamic=dynamic), ""
    except leanly.LeanlyError as error:
        if not dynamic:
            raise
        return leanly.capture(model, example=example), f"length fixed: {error}"


def outputs(graph: Graph, given: list[list[Tensor]]) -> list[Tensor]:
    """Return what a graph gives for each batch."""
    with torch.no_grad():
        return [graph.flat(*inputs)[0] for inputs in given]


def cut(graph: Graph, share: float, given: list[list[Tensor]], before: list[Tensor]) -> dict[str, Any]:
    """Cut a graph by a share of its MACs and check the outcome, step by step; `before` is what it gives whole."""
    found: dict[str, Any] = {"reached": 0.0, "exact": False, "trained": False, "lowered": False}
    started = time.perf_counter()
    try:
        small = Channels(macs=share, normalized=False)(graph)
    except leanly.LeanlyError as error:
        return {**found, "told": str(error)}
    found["seconds to couple and cut"] = time.perf_counter() - started
    found["reached"] = 1 - small.cost().macs / graph.cost().macs
    found["told"] = "; ".join(note for note in small.notes if note.startswith("prune."))
    got = outputs(small, given)
    found |= compare(before, outputs(zeroed(graph, small), given), got)
    for name, check in (("trained", lambda: trains(small, given[1])), ("lowered", lambda: lowers(small, given, got))):
        try:
            found[name] = check()
        except Exception as error:  # whatever it raises, it does not work
            found["told"] += f" {name}: {type(error).__name__}: {str(error)[:300]}"
    return found


def compare(before: list[Tensor], expected: list[Tensor], got: list[Tensor]) -> dict[str, Any]:
    """Compare what a cut graph gives with the whole one in which all that was removed is zero, and that with before."""
    off, changed = 0.0, math.inf
    for whole, zero, small in zip(before, expected, got, strict=True):
        scale = float(zero.abs().max())
        off = max(off, float((small - zero).abs().max()) / scale)
        changed = min(changed, float((whole - zero).abs().max()) / scale)
    return {"off": off, "changed": changed, "exact": bool(off <= TOLERANCE < changed and math.isfinite(off))}


def trains(small: Graph, inputs: list[Tensor]) -> bool:
    """Take one step of gradient descent on a copy: every number stays finite, and the weights move."""
    student = small.clone().train()
    weights = [parameter for parameter in student.parameters() if parameter.requires_grad]
    before = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.SGD(weights, lr=1e-3)
    student.flat(*inputs)[0].square().mean().backward()
    optimizer.step()
    moved = sum(bool((weight != old).any()) for weight, old in zip(weights, before, strict=True))
    return moved > 0 and all(bool(weight.isfinite().all()) for weight in weights)


def lowers(small: Graph, given: list[list[Tensor]], expected: list[Tensor]) -> bool:
    """Lower to ONNX and compare ONNX Runtime's numbers with the graph's."""
    off = 0.0
    with tempfile.TemporaryDirectory() as folder:
        predictor = open_artifact(leanly.lower(small, runtime="onnxruntime", to=Path(folder) / "a"), threads=1)
        for inputs, whole in zip(given, expected, strict=True):
            got = torch.from_numpy(predictor.run([tensor.numpy() for tensor in inputs])[0])
            off = max(off, float((got - whole).abs().max() / whole.abs().max()))
    return off <= TOLERANCE


def peer_reach(name: str, torchvision: Path | None, tools: Path) -> dict[str, Any]:
    """Return what came of the model in Torch-Pruning, in a process of its own."""
    where = ["--torchvision", torchvision, "--tools", tools] if torchvision else []
    command = [sys.executable, "-m", "bench.peer_reach", name, *where]
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
        return {"cuts": {}, "told": f"not done after {PEER_SECONDS} s"}
    if done.returncode:
        return {"cuts": {}, "told": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def works(found: dict[str, Any], share: float) -> bool:
    """Say whether a model was cut by most of what was asked for, exactly, and can be trained and lowered."""
    one = found["cuts"].get(str(share), {"reached": 0.0})
    return bool(one["reached"] >= ENOUGH * share and one["exact"] and one["trained"] and one["lowered"])


def peer_works(found: dict[str, Any], share: float) -> bool:
    """Say whether Torch-Pruning cut a model by as much and it still runs."""
    return found["cuts"].get(str(share), 0.0) >= ENOUGH * share


def main() -> int:
    """Run what is missing, print the tables, and return 1 when all models were tried and too few were cut."""
    parser = argparse.ArgumentParser(prog="python -m bench.reach", description=__doc__)
    parser.add_argument("--torchvision", type=Path, help="where torchvision was installed")
    parser.add_argument("--tools", type=Path, default=Path("../shared/tools"))
    parser.add_argument("--models", help="names, by commas; default all")
    parser.add_argument("--limit", type=int, help="run at most so many that are missing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    vision = load_torchvision(options.torchvision, options.tools) if options.torchvision else None
    known = {VISION: vision.list_models(module=vision) if vision else [], TEXT: list(corpus.ARCHITECTURES)}
    every = [name for names in known.values() for name in names]
    wanted = options.models.split(",") if options.models else every
    if set(wanted) - set(every):
        parser.error(f"no such models: {', '.join(set(wanted) - set(every))}")
    torch.set_num_threads(1)
    left = math.inf if options.limit is None else options.limit
    rows: list[Row] = []
    for name, names in known.items():
        models = vision if name == VISION else None
        found, beside, left = _corpus(models, [one for one in names if one in wanted], options, left)
        if not found:
            continue
        headings = ("model", *(f"{share:.0%}" for share in SHARES), "off", "seconds", "told", "Torch-Pruning")
        print_lines(f"architectures of {name}", headings, _lines(found, beside))
        new = [_row("captured", sum(one["captured"] for one in found.values()), 1.0, len(found), len(names), "")]
        for share in SHARES:
            count = sum(works(one, share) for one in found.values())
            peer = sum(peer_works(one, share) for one in beside.values())
            told = f"Torch-Pruning: {peer} cut as much and run"
            label = f"cut by {share:.0%} of the MACs, exact, trained, lowered"
            new.append(_row(label, count, AIMS[name][share], len(found), len(names), told))
        print_table(name, new)
        rows += new
        if len(found) == len(names):
            about = {"shares": SHARES, "enough": ENOUGH, "tolerance": TOLERANCE, **versions("torch-pruning")}
            more = {"models": found, "Torch-Pruning": beside}
            print(f"written to {write_part('reach', name, new, Target('cpu', threads=1), about, more)}")
    return exit_code(rows)


def _corpus(
    models: Any, names: list[str], options: argparse.Namespace, left: float
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], float]:
    """Return what was found of each model, of leanly's and of the peer's cut; at most `left` are run."""
    found: dict[str, dict[str, Any]] = {}
    beside: dict[str, dict[str, Any]] = {}
    files = [Path(__file__), Path(corpus.__file__)]
    where = options.torchvision if models is not None else None
    for name in names:
        key = {"model": name, "shares": SHARES, "code": code_version(*files, rooms=ROOMS)}
        if not (CACHE / "rows" / f"reach-{digest(key)[:20]}.json").exists():
            if left <= 0:
                continue
            left -= 1
        found[name] = cached("reach", key, lambda name=name: reach(models, name))
        code = [sha256(file) for file in (Path(__file__).with_name("peer_reach.py"), files[1])]
        peer_key = {"model": name, "shares": SHARES, "code": code, **versions("torch-pruning")}
        beside[name] = cached("reach-peer", peer_key, lambda name=name: peer_reach(name, where, options.tools))
        print(name, [works(found[name], share) for share in SHARES], found[name]["told"][:80], flush=True)
    return found, beside, left


def _lines(found: dict[str, dict[str, Any]], beside: dict[str, dict[str, Any]]) -> list[list[str]]:
    lines = []
    for name, one in found.items():
        cuts = one["cuts"]
        told = [one["told"], *(each["told"] for each in cuts.values())]
        failed = [check for check in ("exact", "trained", "lowered") if not all(each[check] for each in cuts.values())]
        other = beside[name]
        lines.append([
            name,
            *(f"{cuts[str(share)]['reached']:.3f}" if cuts else "-" for share in SHARES),
            f"{max((each.get('off', math.nan) for each in cuts.values()), default=math.nan):.1e}",
            f"{max((each.get('seconds to couple and cut', 0.0) for each in cuts.values()), default=0.0):.1f}",
            (f"not {', '.join(failed)}: " if failed else "") + next(filter(None, told), "")[:60],
            " ".join(f"{value:.2f}" for value in other["cuts"].values()) or other["told"][:40],
        ])  # fmt: skip
    return lines


def _row(name: str, count: int, share: float, tried: int, known: int, peer: str) -> Row:
    aim = math.ceil(share * known - 1e-9)
    outcome = "ok" if count >= aim else "undecided" if tried < known else "short"
    return Row(name, Interval(count, count, count), f"of {tried}", f">= {aim}", peer, 1, outcome)


if __name__ == "__main__":
    sys.exit(main())

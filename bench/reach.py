"""How far the cut reaches: whole corpora of architectures captured, cut, checked, trained on and lowered.

    python -m bench.reach [--torchvision FOLDER] [--models resnet18,BertModel] [--shares 0.4] [--limit 10] [--quick]

All classification models of torchvision 0.28 (`FOLDER` holds it: `pip install --no-deps --target FOLDER
torchvision==0.28.0`; left out without it) and architectures of transformers in tiny configurations, with random
weights. Of each, 30, 40 and 50 % of the MACs are asked for. A cut counts where at least 0.8 of that left, the cut graph
gives what the whole one gives with everything removed set to zero, it takes a step of training, and its ONNX file gives
the same in ONNX Runtime for 1, 3 and 8 rows. Torch-Pruning stands beside it: there a cut counts when as much left and
the network still runs for two batch sizes. What was found of a cut is kept beside the results, so that the benchmark
is run in pieces; the table shows what is there so far.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leanly
from bench.models import corpus
from bench.rows import (
    RESULTS,
    Row,
    cached,
    code_version,
    exit_code,
    kept,
    print_lines,
    print_table,
    versions,
    write_part,
)
from bench.zeroing import zeroed
from leanly.files import sha256
from leanly.graph import Graph, tensors
from leanly.measurement.records import Interval
from leanly.prune import Channels
from leanly.runtimes import open_artifact
from leanly.target import Target

CUTS = RESULTS / "reach"
"""Where each model's cuts are kept: all of them take hours."""
SHARES, ENOUGH = (0.3, 0.4, 0.5), 0.8
TOLERANCE = 1e-3
"""Largest difference, as a share of the largest output; what was removed makes a far larger one."""
BATCHES = (1, 3, 8)
SIZES = {"inception_v3": 299}
VISION, TEXT = "torchvision", "transformers"
QUICK = ("resnet18", "squeezenet1_1", "BertModel", "GPT2Model", "ViTModel")
"""Small ones, cut by the middle share alone: under five minutes."""
AIMS = {VISION: {0.3: 1.0, 0.4: 76 / 80, 0.5: 1.0}, TEXT: {0.3: 0.95, 0.4: 0.95, 0.5: 0.95}}
"""Share of a corpus that is to be cut, by the share of the MACs."""
ROOMS = ("graph", "prune", "lowering", "runtimes")
"""Folders of the package that the outcome comes from."""
PEER_SECONDS = 900
"""Some models never end in Torch-Pruning."""

NOTHING = {"reached": 0.0, "exact": False, "trained": False, "lowered": False, "blamed": ""}
"""What is known of a cut before it was made."""

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


@dataclass(frozen=True)
class Whole:
    """A captured model, what it is given, what it gives, and what was told and how long it took."""

    graph: Graph
    given: list[list[Tensor]]
    outputs: list[Tensor]
    told: str
    seconds: float


@functools.lru_cache(maxsize=1)
def whole_model(models: Any, name: str) -> Whole | str:
    """Capture a model once for all its cuts; return why where it can't be captured."""
    model, example = model_named(models, name)
    started = time.perf_counter()
    try:
        graph, told = captured(model, example)
    except leanly.LeanlyError as error:
        return str(error)
    seconds = time.perf_counter() - started
    given = [list(rows_for(models, name, rows).values()) for rows in BATCHES]
    return Whole(graph, given, outputs(graph, given), told, seconds)


def reach(models: Any, name: str, share: float) -> dict[str, Any]:
    """Capture one model, cut it by a share and check; return what came of it."""
    whole = whole_model(models, name)
    if isinstance(whole, str):
        return {"captured": False, "told": whole, **NOTHING}
    return {"captured": True, "told": whole.told, "seconds to capture": whole.seconds, **cut(whole, share)}


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


def cut(whole: Whole, share: float) -> dict[str, Any]:
    """Cut a graph by a share of its MACs and check the outcome, step by step."""
    graph, given, found = whole.graph, whole.given, dict(NOTHING)
    started = time.perf_counter()
    try:
        small = Channels(macs=share, normalized=False)(graph)
    except leanly.LeanlyError as error:
        return {**found, "blamed": str(error)}
    found["seconds to couple and cut"] = time.perf_counter() - started
    found["reached"] = 1 - small.cost().macs / graph.cost().macs
    found["blamed"] = "; ".join(note for note in small.notes if note.startswith("prune."))
    got = outputs(small, given)
    found |= compare(whole.outputs, outputs(zeroed(graph, small), given), got)
    for name, check in (("trained", lambda: trains(small, given[1])), ("lowered", lambda: lowers(small, given, got))):
        try:
            found[name] = check()
        except Exception as error:  # whatever it raises, it does not work
            found["blamed"] += f" {name}: {type(error).__name__}: {str(error)[:300]}"
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


def works(cuts: Mapping[float, dict[str, Any]], share: float) -> bool:
    """Say whether a model was cut by most of what was asked for, exactly, and can be trained and lowered."""
    one = cuts.get(share, NOTHING)
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
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="of the MACs, by commas")
    parser.add_argument("--limit", type=int, help="run at most so many cuts that are missing")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, cut by {SHARES[1]:.0%}%")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    vision = load_torchvision(options.torchvision, options.tools) if options.torchvision else None
    known = {VISION: vision.list_models(module=vision) if vision else [], TEXT: list(corpus.ARCHITECTURES)}
    if options.quick:
        known = {kind: [name for name in names if name in QUICK] for kind, names in known.items()}
        options.shares = str(SHARES[1])
    every = [name for names in known.values() for name in names]
    wanted = options.models.split(",") if options.models else every
    if set(wanted) - set(every):
        parser.error(f"no such models: {', '.join(set(wanted) - set(every))}")
    torch.set_num_threads(1)
    shares = [float(share) for share in options.shares.split(",")]
    if set(shares) - set(SHARES):
        parser.error(f"--shares are among {', '.join(map(str, SHARES))}")
    left = math.inf if options.limit is None else options.limit
    rows: list[Row] = []
    for name, names in known.items():
        models = vision if name == VISION else None
        found, left = _corpus(models, [one for one in names if one in wanted], shares, left)
        if not found:
            continue
        beside = {one: _peer(one, options.torchvision if models is not None else None, options.tools) for one in found}
        headings = ("model", *(f"{share:.0%}" for share in SHARES), "off", "seconds", "told", "Torch-Pruning")
        print_lines(f"architectures of {name}", headings, _lines(found, beside))
        count = sum(all(cut["captured"] for cut in cuts.values()) for cuts in found.values())
        new = [_row("captured", count, 1.0, len(found), len(names), "")]
        for share in SHARES:
            count = sum(works(cuts, share) for cuts in found.values())
            tried = sum(share in cuts for cuts in found.values())
            told = f"Torch-Pruning: {sum(peer_works(one, share) for one in beside.values())} cut as much and run"
            label = f"cut by {share:.0%} of the MACs, exact, trained, lowered"
            new.append(_row(label, count, AIMS[name][share], tried, len(names), told))
        print_table(name, new)
        rows += new
        if not options.models:
            about = {"shares": SHARES, "enough": ENOUGH, "tolerance": TOLERANCE, **versions("torch-pruning")}
            by_model = {one: {str(share): cut for share, cut in cuts.items()} for one, cuts in found.items()}
            where = "reach-quick" if options.quick else "reach"
            more = {"models": by_model, "Torch-Pruning": beside}
            print(f"written to {write_part(where, name, new, Target('cpu', threads=1), about, more)}")
    return exit_code(rows)


def _corpus(
    models: Any, names: list[str], shares: Sequence[float], left: float
) -> tuple[dict[str, dict[float, dict[str, Any]]], float]:
    """Return what was found of each model's cuts; at most `left` of those that are missing are made."""
    found: dict[str, dict[float, dict[str, Any]]] = {}
    code = code_version(Path(__file__), *_sources(models is not None), rooms=ROOMS)
    for name in names:
        for share in SHARES:
            key = {"model": name, "share": share, "code": code}
            if not kept(name, key, CUTS).exists():
                if left <= 0 or share not in shares:
                    continue
                left -= 1
            found.setdefault(name, {})[share] = cached(name, key, functools.partial(reach, models, name, share), CUTS)
        if cuts := found.get(name):
            told = " ".join(f"{share:.0%} {'ok' if works(cuts, share) else 'NOT'}" for share in cuts)
            print(name, told, next(iter(cuts.values()))["told"][:80], flush=True)
    return found, left


def _sources(torchvision: bool) -> tuple[Path, ...]:
    """Return the files of the benchmark that a model is described in."""
    return () if torchvision else (Path(corpus.__file__),)


def _peer(name: str, torchvision: Path | None, tools: Path) -> dict[str, Any]:
    """Return what Torch-Pruning made of a model; `torchvision` is where that is, if it is one of its."""
    code = [sha256(path) for path in (Path(__file__).with_name("peer_reach.py"), *_sources(torchvision is not None))]
    key = {"model": name, "shares": SHARES, "code": code, **versions("torch-pruning")}
    return cached(f"{name}-peer", key, lambda: peer_reach(name, torchvision, tools), CUTS)


def _lines(found: dict[str, dict[float, dict[str, Any]]], beside: dict[str, dict[str, Any]]) -> list[list[str]]:
    lines = []
    for name, cuts in found.items():
        every = list(cuts.values())
        told = [text for one in every for text in (one["told"], one["blamed"]) if text]
        failed = [check for check in ("exact", "trained", "lowered") if not all(one[check] for one in every)]
        other = beside[name]
        lines.append([
            name,
            *(f"{cuts[share]['reached']:.3f}" if share in cuts else "-" for share in SHARES),
            f"{max(one.get('off', math.nan) for one in every):.1e}",
            f"{max(one.get('seconds to couple and cut', 0.0) for one in every):.1f}",
            (f"not {', '.join(failed)}: " if failed else "") + next(iter(told), "")[:60],
            " ".join(f"{value:.2f}" for value in other["cuts"].values()) or other["told"][:40],
        ])  # fmt: skip
    return lines


def _row(name: str, count: int, share: float, tried: int, known: int, peer: str) -> Row:
    aim = math.ceil(share * known - 1e-9)
    outcome = "ok" if count >= aim else "undecided" if tried < known else "short"
    return Row(name, Interval(count, count, count), f"of {tried}", f">= {aim}", peer, 1, outcome)


if __name__ == "__main__":
    sys.exit(main())

"""W4 weights alone: MiniLM's bytes, latency and Spearman beside NNCF's compression of weights in OpenVINO.

Of the peer's settings and of leanly's those count that lose less than the margin on validation to the most accurate of
its own; of these the smallest files, of each form (runtime, precision, bytes) the most accurate, and of those the
fastest.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

from bench import peers
from bench.contest import Ground, lay_ground, race, test_outputs
from bench.contest import Settings as Timing
from bench.drops import drop_row
from bench.entrants import THREADS, Entrant, entrants
from bench.lowered import TARGET, lowered, open_bench, score
from bench.models.subjects import subject_named
from bench.peers import Peer
from bench.pooled import pooled_ratio
from bench.rows import Row, at_most
from leanly.families.candidate import float_forms
from leanly.measurement.records import Interval
from leanly.quantize import GPTQ, WeightsOnly
from leanly.recipe import Recipe

GROUPS = (64, 128)
METHODS = ("plain", "awq", "gptq", "scale_estimation", "awq+scale_estimation", "awq+gptq")
SAME_SIZE = 1.01


def rows(data_dir: Path, quick: bool) -> list[Row]:
    """Return the three rows of MiniLM: what is no worse, and what is better."""
    subject = subject_named("minilm")
    peers.prepare(subject, data_dir)
    ground = lay_ground(subject, data_dir)
    bench = open_bench(ground, data_dir, subject.calibration(data_dir))
    theirs = [entrant for peer in _compressed(ground, quick) for entrant in _opened(ground, peer)]
    peers_best = _best([(score(bench, entrant), entrant) for entrant in theirs], subject.margin)
    mine, forms = [], [*float_forms(("onnxruntime", "openvino"), TARGET), ("onnxruntime", "int8")]
    for group, symmetric in itertools.product(GROUPS, (False, True)):
        recipe = Recipe((WeightsOnly(bits=4, group=group, symmetric=symmetric, embedding_bits=4), GPTQ()))
        for runtime, precision in forms:
            mine.append(lowered(bench, recipe, runtime, precision))
    ours_best = _best([(score(bench, entrant), entrant) for entrant in mine], subject.margin)
    latencies = race(ground, [*peers_best, *ours_best], Timing(quick=quick), 0)
    peer, ours = (
        min(found, key=lambda entrant: latencies[entrant.label][1].median) for found in (peers_best, ours_best)
    )
    ratio = pooled_ratio([(latencies[ours.label][1], latencies[peer.label][1])], seed=0).interval
    size = ours.artifact.bytes / peer.artifact.bytes
    milliseconds = {label: found[1].median * 1e3 for label, found in latencies.items()}
    return [
        Row(
            name="W4 weights, MiniLM: bytes over the peer's",
            reached=Interval(size, size, size),
            unit="x",
            aim="<= 1",
            peer=f"{peer.label}: {peer.artifact.bytes / 1e6:.2f} MB",
            seeds=1,
            outcome="ok" if size <= 1 else "short",
            note=f"leanly {ours.artifact.bytes / 1e6:.2f} MB ({ours.name})",
        ),
        Row(
            name="W4 weights, MiniLM, batch 1: time over the peer's",
            reached=ratio,
            unit="x",
            aim="<= 1",
            peer=f"{peer.label}: {milliseconds[peer.label]:.2f} ms",
            seeds=1,
            outcome=at_most(ratio, 1.0),
            note=f"leanly {milliseconds[ours.label]:.2f} ms",
        ),
        drop_row(
            "W4 weights, MiniLM: drop of Spearman below the peer's",
            ground.test_scale,
            (peer.label, test_outputs(ground, peer)),
            [(ours.name, test_outputs(ground, ours))],
            margin=subject.margin,
            unit="points of Spearman",
        ),
    ]


def _best(found: list[tuple[float, Entrant]], margin: float) -> list[Entrant]:
    """Return the smallest of those that are accurate, one a form: runtime, precision and bytes."""
    top = max(reached for reached, _ in found)
    accurate = [(reached, entrant) for reached, entrant in found if reached >= top - margin]
    smallest = min(entrant.artifact.bytes for _, entrant in accurate)
    best: dict[tuple[str, str, int], Entrant] = {}
    for _, entrant in sorted(accurate, key=lambda pair: pair[0]):
        if entrant.artifact.bytes <= SAME_SIZE * smallest:
            best[entrant.artifact.runtime, entrant.artifact.precision, entrant.artifact.bytes] = entrant
    return list(best.values())


def _opened(ground: Ground, peer: Peer) -> list[Entrant]:
    found = entrants(ground.subject, ground.validation.inputs, ground.float_validation, peer)
    return [entrant for entrant in found if all(plan.static for plan in entrant.artifact.plans.values())]


def _compressed(ground: Ground, quick: bool) -> list[Peer]:
    subject = ground.subject
    found = []
    settings = itertools.product(("int4_sym", "int4_asym"), GROUPS, METHODS)
    for mode, group, method in [("int4_asym", 64, "plain")] if quick else settings:
        name = f"{mode}-{group}-{method}"
        path = peers.work(subject) / "compressed" / name / "model.xml"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            asked = {"model": peers.work(subject) / "float.xml", "out": path, "mode": mode, "group": group}
            asked |= {"method": method, "threads": THREADS}
            command = [peers.python(), Path(__file__).parent / "peer_compress.py"]
            command += [part for key, value in asked.items() for part in (f"--{key}", value)]
            command += ["--calibration", *peers.calibration_files(subject), "--inputs", *subject.input_names]
            done = subprocess.run(
                [str(part) for part in command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
            )
            if done.returncode:
                print(f"NNCF refuses {name}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", flush=True)
                continue
        found.append(Peer("nncf weights", name, path, "float32"))
    return found

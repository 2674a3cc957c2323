"""W8A8 after training: the most accurate of leanly's int8 files against the most accurate of its peers'.

Both are chosen on validation and compared on test. leanly's are the observers for each runtime's kernels, the best of
them with biases corrected and, of a small network, with learned roundings; its peers' all that `bench.int8` makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import peers
from bench.contest import all_entrants, lay_ground, test_outputs, validation_metric
from bench.drops import drop_row
from bench.entrants import Entrant
from bench.lowered import Bench, lowered, open_bench, score
from bench.models.subjects import MINILM_SST2, SUBJECTS
from bench.rows import Row
from bench.scores import SIGNAL_TO_NOISE, Scale
from leanly.quantize import CorrectBias, Reconstruct, Smooth, Static
from leanly.recipe import Recipe

NETWORKS = {subject.name: subject for subject in (*SUBJECTS, MINILM_SST2) if subject.name != "small-cnn"}
OBSERVERS = ("mse", "minmax", "entropy")
RUNTIMES = ("onnxruntime", "openvino")
ITERATIONS = 500
MOST_MACS = 200_000_000
"""Of a row, where roundings are learned: beyond, it takes hours on two cores."""
DECIBELS = 0.5
"""Loss of output SQNR, beyond the best peer's, that still counts as none."""


def rows(data_dir: Path, names: list[str], quick: bool) -> list[Row]:
    """Return the rows of the named networks, and one that says where leanly is the better one."""
    found = [row for name in names for row in _rows(name, data_dir, quick)]
    better = [row for row in found if row.reached.high < 0]
    best = min(found, key=lambda row: row.reached.high)
    claim = replace(
        best,
        name="W8A8: better than the best peer by more than the interval in one network",
        aim="< 0",
        outcome="ok" if better else "undecided",
        note=f"the row whose interval lies lowest: {best.name}",
    )
    return [*found, claim]


def _rows(name: str, data_dir: Path, quick: bool) -> Iterator[Row]:
    subject = NETWORKS[name]
    peers.prepare(subject, data_dir)
    ground = lay_ground(subject, data_dir)
    bench = open_bench(ground, data_dir, subject.calibration(data_dir))
    theirs = [entrant for entrant in all_entrants(ground, quick) if entrant.artifact.precision == "int8"]
    scores = {entrant.label: validation_metric(ground, entrant) for entrant in theirs}
    peer = max(theirs, key=lambda entrant: scores[entrant.label] or float("-inf"))
    ours = _most_accurate(bench, quick)
    scales = [(ground.test_scale, subject.margin, 100.0, f"points of {subject.measure}")]
    if subject.measure == "agreement":
        scales.append((Scale(SIGNAL_TO_NOISE, ground.float_test), DECIBELS, 1.0, "dB of output SQNR"))
    for scale, margin, factor, unit in scales:
        yield drop_row(
            f"W8A8, {subject.title}: drop below the most accurate int8 peer",
            scale,
            (peer.label, test_outputs(ground, peer)),
            [(ours.name, test_outputs(ground, ours))],
            margin=margin,
            unit=unit,
            factor=factor,
            note=f"float {scale.score(ground.float_test) * factor:.2f}",
        )


def _most_accurate(bench: Bench, quick: bool) -> Entrant:
    attention = any("scaled_dot_product" in str(node.target) for node in bench.graph.module.graph.nodes)
    smooth = (Smooth(),) if attention else ()
    tried: list[tuple[Recipe, str]] = [
        (Recipe((*smooth, Static(observer=observer, kernels=kernels))), runtime)
        for observer in (OBSERVERS[:1] if quick else OBSERVERS)
        for kernels in RUNTIMES
        for runtime in RUNTIMES
    ]
    found = {way: lowered(bench, *way, "int8") for way in tried}
    recipe, runtime = max(tried, key=lambda way: score(bench, found[way]))
    learned = () if quick or bench.graph.cost().macs > MOST_MACS else (Reconstruct(iterations=ITERATIONS),)
    after = (CorrectBias(), *learned)
    for step in after:
        way = (Recipe((*recipe.passes, step)), runtime)
        found[way] = lowered(bench, *way, "int8")
    return max(found.values(), key=lambda entrant: score(bench, entrant))

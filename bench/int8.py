"""leanly's int8 against its peers': the same rows calibrate, the same code times, all in turns in one run.

`python -m bench.int8 --data-dir ../shared/data`. A peer is NNCF in OpenVINO, ONNX Runtime's quantizer in ONNX Runtime
and in OpenVINO, and the float network in both, each at the settings that were fastest here. The drop is judged against
the int8 peer that was most accurate on validation, whichever is the fastest.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import peers
from bench.contest import Field, Ground, Settings, choose_field, fastest, lay_ground, race, test_outputs
from bench.drops import drop_row
from bench.entrants import BATCHES, THREADS, Entrant
from bench.models.subjects import SUBJECTS, Subject
from bench.ours import FAMILY, optimize
from bench.pooled import Pooled, mean_of, pooled_median, pooled_ratio
from bench.raced import print_raced, raced
from bench.rows import Row, at_least, at_most, exit_code, print_table, write_results
from bench.scores import SIGNAL_TO_NOISE, Scale
from leanly.measurement.records import Latency
from leanly.target import Target

NEVER_SLOWER = 1.03
FASTER = 1.10
DECIBELS = 0.5
"""Loss of output SQNR, beyond the best peer's, that still counts as none."""
QUICK = ("small-cnn", "resnet20")
QUICK_TIME = "75s"
TIMES = {"small-cnn": "2min", "resnet20": "2min", "resnet56": "4min", "lite0": "4min", "minilm": "4min"}
"""leanly's budget for each network: the time to read its rows in eager PyTorch is part of it."""


@dataclass(frozen=True)
class Round:
    """One seed: what leanly shipped by batch size, all latencies by label, facts of leanly's run."""

    ours: dict[int, Entrant]
    latencies: dict[str, dict[int, Latency]]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Speed:
    """The latency of leanly over the fastest peer's at one batch size."""

    ratio: Pooled
    row: Row


def compete(subject: Subject, data_dir: Path, settings: Settings, time: str, seeds: int) -> dict[str, Any]:
    """Run one network: make the peers, choose their field, let leanly optimize, and race, once a seed."""
    peers.prepare(subject, data_dir)
    ground = lay_ground(subject, data_dir)
    field = choose_field(ground, settings)
    rounds = []
    for seed in range(seeds):
        ours, facts = optimize(ground, data_dir, time=time, seed=seed)
        everyone = {entrant.label: entrant for entrant in (*field.finalists, *ours.values())}
        rounds.append(Round(ours, race(ground, list(everyone.values()), settings, seed), facts))
    speeds = [_speed(subject, field, rounds, size) for size in BATCHES]
    return {
        "ground": ground,
        "field": field,
        "rounds": rounds,
        "speeds": speeds,
        "drops": _drops(ground, field, rounds),
    }


def _speed(subject: Subject, field: Field, rounds: Sequence[Round], size: int) -> Speed:
    medians = {
        entrant.label: pooled_median([part.latencies[entrant.label][size] for part in rounds])
        for entrant in field.finalists
    }
    peer = min(medians, key=lambda label: medians[label])
    pairs = [(part.latencies[part.ours[size].label][size], part.latencies[peer][size]) for part in rounds]
    ours = pooled_median([mine for mine, _ in pairs])
    ratio = pooled_ratio(pairs, seed=[other.name for other in SUBJECTS].index(subject.name))
    row = Row(
        name=f"{subject.name}, batch {size}: time / fastest peer's",
        reached=ratio.interval,
        unit="x",
        aim=f"upper end <= {NEVER_SLOWER}",
        peer=f"{peer}: {medians[peer] * 1e3:.3f} ms",
        seeds=len(rounds),
        outcome=at_most(ratio.interval, NEVER_SLOWER),
        note=f"leanly {ours * 1e3:.3f} ms ({', '.join(dict.fromkeys(part.ours[size].name for part in rounds))})",
        facts={"milliseconds": {label: value * 1e3 for label, value in medians.items()}, "leanly": ours * 1e3},
    )
    return Speed(ratio, row)


def _drops(ground: Ground, field: Field, rounds: Sequence[Round]) -> list[Row]:
    subject = ground.subject
    scales = [(ground.test_scale, subject.margin, 100.0, f"points of {subject.measure}")]
    if subject.measure == "agreement":
        scales.append((Scale(SIGNAL_TO_NOISE, ground.float_test), DECIBELS, 1.0, "dB of output SQNR"))
    shipped = {entrant.key: entrant for part in rounds for entrant in part.ours.values()}
    return [
        drop_row(
            f"{subject.name}: drop below the most accurate int8 peer",
            scale,
            (field.most_accurate.label, test_outputs(ground, field.most_accurate)),
            [(entrant.name, test_outputs(ground, entrant)) for entrant in shipped.values()],
            margin=margin,
            unit=unit,
            factor=factor,
            seeds=len(rounds),
            note=f"float {scale.score(ground.float_test) * factor:.2f}",
        )
        for scale, margin, factor, unit in scales
    ]


def _mean_row(speeds: Sequence[Speed], seeds: int) -> Row:
    interval = mean_of([speed.ratio for speed in speeds]).interval.inverse()
    outcome = at_least(interval, FASTER)
    return Row(
        name=f"speed-up over the fastest peers, geometric mean of {len(speeds)}",
        reached=interval,
        unit="x",
        aim=f">= {FASTER:.2f}",
        peer="the fastest of each row",
        seeds=seeds,
        outcome=outcome,
        note="" if outcome == "ok" else f"{FASTER / interval.value - 1:+.1%} to go",
    )


def _details(found: dict[str, Any]) -> dict[str, Any]:
    """Return what stands behind the rows: every finalist's times and test metric, and who did not race."""
    ground, field, rounds = found["ground"], found["field"], found["rounds"]
    everyone = (*field.finalists, *(entrant for part in rounds for entrant in part.ours.values()))
    return {
        "float metric on test": ground.test_scale.score(ground.float_test),
        "most accurate int8 peer": field.most_accurate.label,
        "entrants": raced(ground, everyone, [part.latencies for part in rounds]),
        "fastest": {size: fastest(rounds[0].latencies, [e.label for e in field.finalists], size) for size in BATCHES},
        "int8 peers on validation": field.validation,
        "lost too much to race": field.left_out,
        "refused by their runtime": field.refused,
        "leanly": [part.facts for part in rounds],
    }


def main() -> int:
    """Run the benchmark; return 1 when a row is short of its aim."""
    parser = argparse.ArgumentParser(prog="python -m bench.int8", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", help="networks, by commas: " + ", ".join(subject.name for subject in SUBJECTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--time", help="leanly's budget of time, the same for each network")
    parser.add_argument("--quick", action="store_true", help="two networks, one seed, few settings: under five minutes")
    options = parser.parse_args()
    settings = Settings(screening=0.2, final=1.0, quick=True) if options.quick else Settings()
    seeds = 1 if options.quick else options.seeds
    times = dict.fromkeys(TIMES, options.time or QUICK_TIME) if options.time or options.quick else TIMES
    names = options.rows.split(",") if options.rows else QUICK if options.quick else [s.name for s in SUBJECTS]
    unknown = set(names) - {subject.name for subject in SUBJECTS}
    if unknown or seeds < 1 or not options.data_dir.is_dir():
        parser.error(f"no such networks, data or seeds: {', '.join(unknown) or options.data_dir}, {seeds}")
    torch.set_num_threads(THREADS)
    target = Target("cpu", threads=THREADS, batch_sizes=BATCHES)
    speeds: list[Speed] = []
    rows: list[Row] = []
    details: dict[str, Any] = {}
    name = "int8-quick" if options.quick else "int8"
    for subject in SUBJECTS:
        if subject.name not in names:
            continue
        found = compete(subject, options.data_dir, settings, times[subject.name], seeds)
        speeds.extend(found["speeds"])
        new = [*(speed.row for speed in found["speeds"]), *found["drops"]]
        details[subject.name] = _details(found)
        print_raced(found["ground"], details[subject.name]["entrants"], "the fastest of each family, and leanly")
        print_table(subject.title, new)
        rows.extend(new)
    rows.append(_mean_row(speeds, seeds))
    print_table("int8 on this machine", rows)
    about = {"networks": names, "seeds": list(range(seeds)), "leanly's time": times, **dataclasses.asdict(settings)}
    print(f"written to {write_results(name, rows, target, about, {'networks': details, 'ours': FAMILY})}")
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())

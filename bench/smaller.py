"""leanly's smaller networks against whole int8, and against Torch-Pruning with the same teaching and time.

`python -m bench.smaller --data-dir ../shared/data`. Each row is a whole run of `leanly.optimize`: parts removed, the
rest taught by the original, int8, measured and certified at a drop of at most a point. It races in turns against the
whole network's int8 from NNCF and ONNX Runtime, each at its fastest settings here, and against what Torch-Pruning's
cuts, leanly's own teaching and those quantizers reach in the same time. The row `cut` says how long coupling and
cutting take; `bench.reach` says what of whole corpora they reach.
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

from bench import cut_time, peers
from bench.contest import Field, Ground, Settings, choose_field, lay_ground, race, test_outputs
from bench.drops import drop_row
from bench.entrants import BATCHES, THREADS, Entrant
from bench.models.subjects import MINILM_SST2, SUBJECTS, Subject
from bench.ours import FAMILY, optimize
from bench.peer_pruning import MAX_POINTS, pruned_entrants
from bench.pooled import pooled_median, pooled_ratio
from bench.raced import print_raced, raced
from bench.rows import Row, at_least, exit_code, print_table, write_part
from leanly.measurement.records import Latency
from leanly.target import Target

NETWORKS = (*(subject for subject in SUBJECTS if subject.name in ("small-cnn", "resnet56")), MINILM_SST2)
AIMS = {"small-cnn": (1.5, 1.8), "resnet56": (1.8, 1.8), "minilm-sst2": (1.6, 1.6)}
"""Speed-up over the best peer's whole int8 at batch 1 and 16."""
OVER_PRUNED = 1.3
TIMES = {"small-cnn": "5min", "resnet56": "45min", "minilm-sst2": "30min"}
SEEDS = {"small-cnn": 3, "resnet56": 1, "minilm-sst2": 1}
QUICK_TIME = "60s"
CUT = "cut"


@dataclass(frozen=True)
class Round:
    """One seed: what leanly shipped by batch size, the pruned peers, all latencies by label, facts of both runs."""

    ours: dict[int, Entrant]
    pruned: list[Entrant]
    latencies: dict[str, dict[int, Latency]]
    facts: dict[str, Any]

    def fastest_pruned(self, size: int) -> Entrant:
        """Return the fastest network of Torch-Pruning at a batch size."""
        return min(self.pruned, key=lambda entrant: self.latencies[entrant.label][size].median)


def compete(subject: Subject, data_dir: Path, settings: Settings, time: str, seeds: int) -> tuple[list[Row], Any]:
    """Run one network and return its rows and what stands behind them."""
    peers.prepare(subject, data_dir)
    ground = lay_ground(subject, data_dir)
    field = choose_field(ground, settings)
    whole = [entrant for entrant in field.finalists if entrant.artifact.precision == "int8"]
    rounds = []
    for seed in range(seeds):
        ours, facts = optimize(ground, data_dir, time=time, seed=seed, smaller=True)
        pruned, theirs = pruned_entrants(ground, data_dir, settings, time=time, seed=seed)
        everyone = {entrant.label: entrant for entrant in (*whole, *pruned, *ours.values())}
        latencies = race(ground, list(everyone.values()), settings, seed)
        rounds.append(Round(ours, pruned, latencies, {FAMILY: facts, "Torch-Pruning": theirs}))
    rows = [_over_whole(subject, whole, rounds, size) for size in BATCHES]
    rows += [_over_pruned(subject, rounds, size) for size in BATCHES]
    rows += _drops(ground, field, rounds)
    details = _details(ground, field, whole, rounds)
    print_raced(ground, details["entrants"], "what raced")
    return rows, details


def _over_whole(subject: Subject, whole: Sequence[Entrant], rounds: Sequence[Round], size: int) -> Row:
    medians = {
        entrant.label: pooled_median([part.latencies[entrant.label][size] for part in rounds]) for entrant in whole
    }
    peer = min(medians, key=lambda label: medians[label])
    pairs = [(part.latencies[peer][size], _ours(part, size)) for part in rounds]
    aim = AIMS[subject.name][BATCHES.index(size)]
    name = f"{subject.name}, batch {size}: speed-up over the best peer's int8"
    return _speed_row(name, subject, pairs, aim, peer, rounds, size)


def _over_pruned(subject: Subject, rounds: Sequence[Round], size: int) -> Row:
    """Each seed has its own pruned networks: the fastest of each stands for it."""
    pairs, labels = [], []
    for part in rounds:
        fastest = part.fastest_pruned(size)
        pairs.append((part.latencies[fastest.label][size], _ours(part, size)))
        labels.append(fastest.label)
    name = f"{subject.name}, batch {size}: speed-up over Torch-Pruning, the same teaching, NNCF"
    return _speed_row(name, subject, pairs, OVER_PRUNED, ", ".join(dict.fromkeys(labels)), rounds, size)


def _speed_row(
    name: str,
    subject: Subject,
    pairs: Sequence[tuple[Latency, Latency]],
    aim: float,
    peer: str,
    rounds: Sequence[Round],
    size: int,
) -> Row:
    ratio = pooled_ratio(pairs, seed=[other.name for other in NETWORKS].index(subject.name))
    theirs, ours = (pooled_median([pair[position] for pair in pairs]) for position in (0, 1))
    return Row(
        name=name,
        reached=ratio.interval,
        unit="x",
        aim=f">= {aim:g}",
        peer=f"{peer}: {theirs * 1e3:.3f} ms",
        seeds=len(pairs),
        outcome=at_least(ratio.interval, aim),
        note=f"leanly {ours * 1e3:.3f} ms ({'; '.join(dict.fromkeys(part.ours[size].name for part in rounds))})",
    )


def _ours(part: Round, size: int) -> Latency:
    return part.latencies[part.ours[size].label][size]


def _drops(ground: Ground, field: Field, rounds: Sequence[Round]) -> list[Row]:
    """Below the float network by less than the budget, and below the peers by less than counts as none."""
    subject, scale = ground.subject, ground.test_scale
    shipped = {entrant.key: entrant for part in rounds for entrant in part.ours.values()}
    ours = [(entrant.name, test_outputs(ground, entrant)) for entrant in shipped.values()]
    against = [("float32", ("PyTorch float32", ground.float_test), MAX_POINTS)]
    pruned = {entrant.key: entrant for part in rounds for size in BATCHES for entrant in [part.fastest_pruned(size)]}
    best = max(pruned.values(), key=lambda entrant: scale.score(test_outputs(ground, entrant)))
    against.append(("Torch-Pruning's fastest", (best.label, test_outputs(ground, best)), subject.margin))
    return [
        drop_row(
            f"{subject.name}: drop below {what}",
            scale,
            peer,
            ours,
            margin=margin,
            unit="points of accuracy",
            seeds=len(rounds),
        )
        for what, peer, margin in against
    ]


def _details(ground: Ground, field: Field, whole: Sequence[Entrant], rounds: Sequence[Round]) -> dict[str, Any]:
    theirs_and_ours = (entrant for part in rounds for entrant in (*part.pruned, *part.ours.values()))
    return {
        "float metric on test": ground.test_scale.score(ground.float_test),
        "entrants": raced(ground, (*whole, *theirs_and_ours), [part.latencies for part in rounds]),
        "lost too much to race": field.left_out,
        "runs": [part.facts for part in rounds],
    }


def main() -> int:
    """Run the benchmark; return 1 when a row is short of its aim."""
    parser = argparse.ArgumentParser(prog="python -m bench.smaller", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", help="networks, by commas: " + ", ".join([*(s.name for s in NETWORKS), CUT]))
    parser.add_argument("--seeds", type=int, help="default 3 for the small CNN, 1 for the others")
    parser.add_argument("--time", help="budget of time of leanly and of Torch-Pruning, the same for each network")
    parser.add_argument("--quick", action="store_true", help="the small CNN, one seed, a minute: under five minutes")
    options = parser.parse_args()
    settings = Settings(screening=0.2, final=1.0, quick=True) if options.quick else Settings()
    names = (
        options.rows.split(",") if options.rows else [*[s.name for s in NETWORKS][: 1 if options.quick else None], CUT]
    )
    unknown = set(names) - {subject.name for subject in NETWORKS} - {CUT}
    if unknown or not options.data_dir.is_dir() or (options.seeds or 1) < 1:
        parser.error(f"no such networks, data or seeds: {', '.join(unknown) or options.data_dir}, {options.seeds}")
    torch.set_num_threads(THREADS)
    rows: list[Row] = []
    name = "smaller-quick" if options.quick else "smaller"
    target = Target("cpu", threads=THREADS, batch_sizes=BATCHES)
    for subject in NETWORKS:
        if subject.name not in names:
            continue
        time = options.time or (QUICK_TIME if options.quick else TIMES[subject.name])
        seeds = options.seeds or (1 if options.quick else SEEDS[subject.name])
        new, details = compete(subject, options.data_dir, settings, time, seeds)
        print_table(subject.title, new)
        about = {"seeds": seeds, "time": time, **dataclasses.asdict(settings)}
        print(f"written to {write_part(name, subject.name, new, target, about, details)}")
        rows.extend(new)
    if CUT in names:
        new = cut_time.rows()
        print_table("how long a cut takes", new)
        print(f"written to {write_part(name, CUT, new, target, {}, {})}")
        rows.extend(new)
    return exit_code(rows)


if __name__ == "__main__":
    sys.exit(main())

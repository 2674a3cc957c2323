"""leanly's pruning against its peers and the best published figures, case by case.

`python -m bench.prune --data-dir ../shared/data`. Cuts without training, against Torch-Pruning with every criterion
beside it (`bench.untrained`), and in measured time (`bench.cut_measured`); cut and taught, against Torch-Pruning
(`bench.taught_cut`), also in measured time (`bench.taught_time`); how well a table of costs foresees their time
(`bench.foreseen`); whether zeros save any (`bench.zeros`); LeNets as small as they get without loss (`bench.lenet`).
`python -m bench.reach` says which architectures can be cut at all, `python -m bench.smaller` what whole runs reach.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import cut_measured, foreseen, lenet, taught_cut, taught_time, untrained, zeros
from bench.entrants import BATCHES, THREADS
from bench.rows import RESULTS, Row, exit_code, print_table, write_part
from leanly.target import Target

UNTRAINED, TAUGHT_TIME, FORESEEN, ZEROS = "untrained", "resnet56-time", "foreseen", "zeros"


def cases(options: argparse.Namespace, results: str) -> dict[str, Callable[[], list[Row]]]:
    """Return what each case runs, by its name.

    Args:
        options: as they were given.
        results: name of the file that the rows of earlier cases are in.
    """
    data_dir, seeds = options.data_dir, options.seeds
    found: dict[str, Callable[[], list[Row]]] = {
        UNTRAINED: partial(untrained.few_samples, data_dir, 1 if options.quick else untrained.DRAWS),
    }
    epochs = max(1, round(options.scale * taught_cut.EPOCHS))
    for fewer in taught_cut.FEWER:
        found[taught_cut.part_name(fewer)] = partial(taught_cut.rows, fewer, data_dir, epochs)
    found[TAUGHT_TIME] = partial(taught_time.rows, data_dir, epochs, RESULTS / f"{results}.json")
    found[FORESEEN] = partial(foreseen.rows, data_dir, options.quick)
    found[ZEROS] = zeros.rows
    for name, case in cut_measured.CASES.items():
        found[name] = partial(cut_measured.rows, case, data_dir)
    for name, case in lenet.CASES.items():
        found[name] = partial(lenet.rows, case, data_dir, seeds, options.scale)
    return found


def main() -> int:
    """Run the benchmark; return 1 when a row is short of its aim."""
    parser = argparse.ArgumentParser(prog="python -m bench.prune", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", help="cases, by commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of all epochs of what is taught")
    parser.add_argument("--quick", action="store_true", help="one draw of the cuts without training")
    options = parser.parse_args()
    results = "prune-quick" if options.quick or options.scale < 1 else "prune"
    known = cases(options, results)
    names = options.rows.split(",") if options.rows else [UNTRAINED] if options.quick else list(known)
    if {*names} - {*known} or not options.data_dir.is_dir() or options.seeds < 1 or not 0 < options.scale <= 1:
        parser.error(f"no such cases, data, seeds or scale: {', '.join({*names} - {*known})} {options.data_dir}")
    found: list[Row] = []
    target = Target("cpu", threads=THREADS, batch_sizes=BATCHES)
    for name in names:
        new = known[name]()
        print_table(name, new)
        about = {"seeds": options.seeds, "scale": options.scale, "samples": untrained.SAMPLES}
        print(f"written to {write_part(results, name, new, target, about, {})}")
        found.extend(new)
    return exit_code(found)


if __name__ == "__main__":
    sys.exit(main())

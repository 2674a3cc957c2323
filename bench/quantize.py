"""leanly's quantization against its peers, case by case.

`python -m bench.quantize --data-dir ../shared/data`. Few bits after training (`bench.few_bits`): accuracy lost by
weights and activations of few bits, roundings learned without labels, as the runtime computes it, against brevitas.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import few_bits
from bench.entrants import THREADS
from bench.rows import Row, exit_code, print_table, write_part
from leanly.target import Target

NAMES = tuple(case.name for case in few_bits.CASES)


def main() -> int:
    """Run the benchmark; return 1 when a row is short of its aim."""
    parser = argparse.ArgumentParser(prog="python -m bench.quantize", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", default=",".join(NAMES), help="cases, by commas")
    parser.add_argument("--networks", default=",".join(few_bits.BLOCKS), help="networks, by commas")
    parser.add_argument("--seeds", type=int, default=few_bits.SEEDS)
    parser.add_argument("--quick", action="store_true", help="one case, ResNet-20, one seed, few iterations")
    options = parser.parse_args()
    names, networks = options.rows.split(","), options.networks.split(",")
    unknown = {*names} - {*NAMES} | {*networks} - {*few_bits.BLOCKS}
    if unknown or not options.data_dir.is_dir() or options.seeds < 1:
        parser.error(f"no such cases, networks, data or seeds: {unknown or options.data_dir}, {options.seeds}")
    if options.quick:
        names, networks, options.seeds = names[:1], ["resnet20"], 1
    found: list[Row] = []
    target = Target("cpu", threads=THREADS)
    for case in few_bits.CASES:
        if case.name not in names:
            continue
        new = few_bits.rows(case, options.data_dir, networks, options.seeds, options.quick)
        print_table(case.name, new)
        about = {"networks": networks, "seeds": options.seeds, "samples": few_bits.SAMPLES}
        name = "quantize-quick" if options.quick else "quantize"
        print(f"written to {write_part(name, case.name, new, target, about, {})}")
        found.extend(new)
    return exit_code(found)


if __name__ == "__main__":
    sys.exit(main())

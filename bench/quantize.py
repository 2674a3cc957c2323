"""leanly's quantization against its peers, case by case.

`python -m bench.quantize --data-dir ../shared/data`. Eight bits (`bench.eight_bits`) against NNCF and ONNX Runtime; few
bits after training (`bench.few_bits`, without labels) and during it (`bench.trained_bits`) against brevitas; four-bit
weights alone (`bench.packed_weights`) against NNCF; mixed precision (`bench.mixed`) against int8; one bit
(`bench.one_bit`) trained from the float network, and its kernel beside int8; the memory that calibration adds
(`bench.memory`). With a GPU elsewhere, `--train-on cuda` trains there; `bench/.cache/trained` is then copied back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from bench import eight_bits, few_bits, memory, mixed, one_bit, packed_weights, trained_bits
from bench.apart import Training
from bench.entrants import BATCHES, THREADS
from bench.rows import Row, exit_code, print_table, write_part
from leanly.target import Target

EIGHT, PACKED, MIXED, KERNEL, MEMORY = "W8A8", "W4-weights", "mixed", "1-bit-kernel", "memory"
ONE_BIT = {
    "W1A32": (32, one_bit.EPOCHS, 1.5),
    "W1A1": (1, one_bit.EPOCHS, 5.0),
    "W1A32-long": (32, one_bit.LONG, 0.9),
    "W1A1-long": (1, one_bit.LONG, 3.5),
}
"""Bits of activations, epochs and the drop aimed at."""


def cases(options: argparse.Namespace) -> dict[str, Callable[[], list[Row]]]:
    """Return what each case runs, by its name."""
    data_dir, quick, scale = options.data_dir, options.quick, options.scale
    networks = options.networks.split(",") if options.networks else None
    found: dict[str, Callable[[], list[Row]]] = {
        EIGHT: partial(eight_bits.rows, data_dir, networks or list(eight_bits.NETWORKS), quick),
    }
    for case in few_bits.CASES:
        some = networks or (case.networks[:1] if quick else case.networks)
        found[case.name] = partial(few_bits.rows, case, data_dir, some, 1 if quick else options.seeds, quick, scale)
    for name in trained_bits.AIMS:
        found[name] = partial(trained_bits.rows, name, data_dir, scaled(trained_bits.EPOCHS, scale))
    found[PACKED] = partial(packed_weights.rows, data_dir, quick)
    found[MIXED] = partial(mixed.rows, data_dir, quick)
    found[KERNEL] = partial(one_bit.kernel_rows, quick)
    found[MEMORY] = partial(memory.rows, data_dir, quick)
    for name, (activations, epochs, aim) in ONE_BIT.items():
        found[name] = partial(one_bit.rows, activations, data_dir, epochs=scaled(epochs, scale), aim=aim)
    return found


def trainings(names: Iterable[str], data_dir: Path, scale: float) -> Iterator[Training]:
    """Yield what some cases train, for a share of their epochs."""
    for name in names:
        if name in trained_bits.AIMS:
            yield trained_bits.training(name, data_dir, scaled(trained_bits.EPOCHS, scale))
        if name in ONE_BIT:
            activations, epochs, _ = ONE_BIT[name]
            yield one_bit.training(activations, data_dir, scaled(epochs, scale))


def scaled(epochs: int, scale: float) -> int:
    """Return a share of some epochs, one at least."""
    return max(1, round(scale * epochs))


def main() -> int:
    """Run the benchmark; return 1 when a row is short of its aim."""
    parser = argparse.ArgumentParser(prog="python -m bench.quantize", description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rows", help="cases, by commas; all but the long ones where left out")
    parser.add_argument("--networks", help="networks of W8A8 and of the few bits, by commas")
    parser.add_argument("--seeds", type=int, default=few_bits.SEEDS, help="of the few bits")
    parser.add_argument("--long", action="store_true", help=f"one bit for {one_bit.LONG} epochs too")
    parser.add_argument("--scale", type=float, default=1.0, help="of epochs and of few bits' steps")
    parser.add_argument("--quick", action="store_true", help="mixed precision, one kernel of one bit, memory")
    parser.add_argument("--train-on", metavar="DEVICE", help="train what the rows need on a device, keep it, and stop")
    options = parser.parse_args()
    known = cases(options)
    names = options.rows.split(",") if options.rows else [name for name in known if "-long" not in name or options.long]
    if options.quick and not options.rows:
        names = [MIXED, KERNEL, MEMORY]
    networks = set(options.networks.split(",")) if options.networks else set()
    unknown = {*names} - {*known} | networks - {*eight_bits.NETWORKS, *few_bits.BLOCKS}
    if unknown or not options.data_dir.is_dir() or options.seeds < 1 or not 0 < options.scale <= 1:
        given = f"{options.data_dir}, {options.seeds}, {options.scale}"
        parser.error(f"no such cases, networks, data, seeds or scale: {', '.join(unknown)} {given}")
    if options.train_on:
        for training in trainings(names, options.data_dir, options.scale):
            training.graph(options.train_on)
            print(f"{training.name}: {training.told}", flush=True)
        return 0
    found: list[Row] = []
    target = Target("cpu", threads=THREADS, batch_sizes=BATCHES)
    for name in names:
        new = known[name]()
        print_table(name, new)
        about = {key: getattr(options, key) for key in ("networks", "seeds", "scale")} | {"samples": few_bits.SAMPLES}
        results = "quantize-quick" if options.quick or options.scale < 1 else "quantize"
        print(f"written to {write_part(results, name, new, target, about, {})}")
        found.extend(new)
    return exit_code(found)


if __name__ == "__main__":
    sys.exit(main())

"""NNCF's compression of weights alone, run as a process in the peer's own environment."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import nncf  # pyright: ignore[reportMissingImports]
import numpy as np
import openvino as ov


def main() -> None:
    """Compress the weights of one float file with one set of settings and write IR."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help="float IR; in one made of ONNX the weights lie so that GPTQ refuses them",
    )
    parser.add_argument("--calibration", type=Path, nargs="+", required=True, help="one .npy an input, in order")
    parser.add_argument("--inputs", nargs="+", required=True, help="names of the inputs, in the same order")
    parser.add_argument("--out", type=Path, required=True, help="the IR to write")
    parser.add_argument("--mode", choices=("int4_sym", "int4_asym"), required=True)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--method", required=True, help='"plain", or options of compress_weights joined by +')
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    ov.Core().set_property("CPU", {"INFERENCE_NUM_THREADS": options.threads})
    arrays = [np.load(path) for path in options.calibration]
    rows = [
        {name: array[i : i + 1] for name, array in zip(options.inputs, arrays, strict=True)}
        for i in range(len(arrays[0]))
    ]
    asked = [] if options.method == "plain" else options.method.split("+")
    more = {"dataset": nncf.Dataset(rows), **dict.fromkeys(asked, True)} if asked else {}
    compressed = nncf.compress_weights(
        ov.Core().read_model(options.model),
        mode=nncf.CompressWeightsMode(options.mode),
        ratio=1.0,
        group_size=options.group,
        all_layers=True,
        **more,
    )
    temporary = options.out.with_name(f"writing-{os.getpid()}.xml")
    ov.save_model(compressed, temporary, compress_to_fp16=False)
    temporary.with_suffix(".bin").replace(options.out.with_suffix(".bin"))
    temporary.replace(options.out)
    print(json.dumps({"nncf": nncf.__version__, "openvino": ov.__version__, "seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main()

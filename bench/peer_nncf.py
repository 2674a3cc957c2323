"""NNCF's post-training quantization, run as a process in the peer's own environment."""

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
    """Quantize one float file with one set of settings and write IR."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="float ONNX or IR")
    parser.add_argument("--calibration", type=Path, nargs="+", required=True, help="one .npy an input, in order")
    parser.add_argument("--inputs", nargs="+", required=True, help="names of the inputs, in the same order")
    parser.add_argument("--out", type=Path, required=True, help="the IR to write")
    parser.add_argument("--preset", choices=("mixed", "performance"), required=True)
    parser.add_argument("--fast-bias-correction", action=argparse.BooleanOptionalAction, required=True)
    parser.add_argument(
        "--overflow",
        choices=("cpu", "spr", "half"),
        required=True,
        help="weights of 7 bits: in the first layer, nowhere, everywhere",
    )
    parser.add_argument("--transformer", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    half = nncf.OverflowFix.ENABLE if options.overflow == "half" else None
    started = time.monotonic()
    ov.Core().set_property("CPU", {"INFERENCE_NUM_THREADS": options.threads})
    arrays = [np.load(path) for path in options.calibration]
    rows = [
        {name: array[i : i + 1] for name, array in zip(options.inputs, arrays, strict=True)}
        for i in range(len(arrays[0]))
    ]
    quantized = nncf.quantize(
        ov.Core().read_model(options.model),
        nncf.Dataset(rows),
        preset=nncf.QuantizationPreset(options.preset),
        target_device=nncf.TargetDevice.CPU_SPR if options.overflow == "spr" else nncf.TargetDevice.CPU,
        subset_size=len(rows),
        fast_bias_correction=options.fast_bias_correction,
        model_type=nncf.ModelType.TRANSFORMER if options.transformer else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=half),
    )
    temporary = options.out.with_name(f"writing-{os.getpid()}.xml")
    ov.save_model(quantized, temporary, compress_to_fp16=False)
    temporary.with_suffix(".bin").replace(options.out.with_suffix(".bin"))
    temporary.replace(options.out)
    facts = {"nncf": nncf.__version__, "openvino": ov.__version__, "seconds": time.monotonic() - started}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()

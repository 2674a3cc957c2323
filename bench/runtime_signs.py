"""What OpenVINO itself has for one bit: a convolution of signs, which it makes of a two-level FakeQuantize."""

from __future__ import annotations

import statistics
import time

import numpy as np
import openvino
from openvino import opset13 as ops

from bench.entrants import THREADS

CALLS, WARM = 100, 10
KIND = "BinaryConvolution"


def median_seconds(channels: int, size: int, layers: int, batch: int) -> float | None:
    """Return what a call of a stack of 3 x 3 convolutions of signs takes; None where they do not run as such.

    Args:
        channels: of the images, before and after each convolution.
        size: height and width of the images.
        layers: how many convolutions.
        batch: images in a call.
    """
    settings = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(_stack(channels, size, layers, batch), "CPU", settings)
    kinds = [str(node.get_rt_info()["layerType"].astype(str)) for node in compiled.get_runtime_model().get_ops()]
    if kinds.count(KIND) < layers:
        return None
    images = np.random.default_rng(0).standard_normal((batch, channels, size, size), dtype=np.float32)
    request = compiled.create_infer_request()
    times = []
    for _ in range(WARM + CALLS):
        began = time.perf_counter()
        request.infer([images])
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM:])


def _stack(channels: int, size: int, layers: int, batch: int) -> openvino.Model:
    generator = np.random.default_rng(0)
    given = ops.parameter([batch, channels, size, size], np.float32)
    value = given
    for _ in range(layers):
        threshold = np.zeros((1, channels, 1, 1), np.float32)
        ends = [np.full((1, 1, 1, 1), end, np.float32) for end in (-1, 1)]
        signs = ops.fake_quantize(value, threshold, threshold, *ends, 2)
        weight = np.where(generator.random((channels, channels, 3, 3)) < 0.5, -1, 1).astype(np.float32)
        sums = ops.convolution(signs, ops.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1])
        scaled = ops.multiply(sums, ops.constant(np.full((1, channels, 1, 1), 0.01, np.float32)))
        value = ops.relu(ops.add(scaled, value))
    return openvino.Model([value], [given], "signs")  # pyright: ignore[reportGeneralTypeIssues]  # their stubs disagree

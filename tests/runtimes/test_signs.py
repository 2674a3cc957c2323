"""The kernel of signs, by each kind of instruction that this processor has, against the arithmetic in PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leanly.lowering.signs import pack_signs
from leanly.runtimes import compiling

pytestmark = pytest.mark.skipif(compiling.compiler() is None, reason="no C++ compiler")
LEVELS = ("portable", "avx2", "avx512_vpopcntdq")


@pytest.fixture(scope="module")
def library() -> Iterator[ctypes.CDLL]:
    yield ctypes.CDLL(str(compiling.openvino_extension()))


def run(
    library: ctypes.CDLL,
    level: str,
    case: dict[str, torch.Tensor],
    sizes: list[int],
    batch: int,
    channels_last: bool = False,
) -> np.ndarray | None:
    given = {name: tensor.numpy() for name, tensor in case.items()}
    if channels_last:
        given["x"] = given["x"].transpose(0, 2, 3, 1)
    arrays = {name: np.ascontiguousarray(array) for name, array in given.items()}
    image = sizes[-2:] if sizes[-1] else []
    out = np.full((batch, *image, sizes[3]) if channels_last else (batch, sizes[3], *image), np.nan, np.float32)

    def at(array: np.ndarray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    names = ("x", "threshold", "packed", "factor", "offset")
    shape = np.array(sizes, np.int64)
    code = library.leanly_signs(
        level.encode(),
        *(at(arrays[name]) for name in names),
        at(shape),
        ctypes.c_int64(batch),
        ctypes.c_int(channels_last),
        at(out),
    )
    if code:
        return None
    return out.transpose(0, 3, 1, 2) if channels_last else out


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, list[int]]:
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    dilations = [draw(st.integers(1, 2)) for _ in range(2)]
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    reach = [dilations[side] * (kernel[side] - 1) + 1 for side in range(2)]
    sizes = [draw(st.integers(max(1, reach[side] - pads[side] - pads[2 + side]), 9)) for side in range(2)]
    return {
        "kernel": kernel, "dilations": dilations, "pads": pads, "sizes": sizes,
        "strides": [draw(st.integers(1, 3)) for _ in range(2)],
        "counts": [draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 8, 13, 64, 100])), draw(st.integers(1, 19))],
    }  # fmt: skip


@given(geometries(), st.integers(0, 2**31))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_level_computes_what_pytorch_does(library, geometry, seed) -> None:
    torch.manual_seed(seed)
    batch, channels, filters = geometry["counts"]
    case = {
        "x": torch.randn(batch, channels, *geometry["sizes"]),
        "threshold": torch.randn(channels),
        "packed": pack_signs(torch.randn(filters, channels, *geometry["kernel"])),
        "factor": torch.randn(filters),
        "offset": torch.randn(filters),
    }
    if channels > 1:
        case["x"][0, 0] = case["threshold"][0]  # at the threshold is plus
    settings_ = [geometry[name] for name in ("kernel", "strides", "pads", "dilations")]
    wanted = torch.ops.leanly.binary_convolution(*case.values(), *settings_)
    sizes = [
        channels, *geometry["sizes"], filters, *geometry["kernel"], *geometry["strides"], *geometry["pads"][:2],
        *geometry["dilations"], *wanted.shape[2:],
    ]  # fmt: skip
    for channels_last in (False, True):
        check(library, case, sizes, batch, wanted, channels_last)


@given(st.integers(1, 40), st.sampled_from([1, 7, 8, 65, 300]), st.sampled_from([1, 5, 64, 130]), st.integers(0, 2**31))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_linear_layers_too(library, rows, channels, filters, seed) -> None:
    torch.manual_seed(seed)
    case = {
        "x": torch.randn(rows, channels),
        "threshold": torch.randn(channels),
        "packed": pack_signs(torch.randn(filters, channels)),
        "factor": torch.randn(filters),
        "offset": torch.randn(filters),
    }
    wanted = torch.ops.leanly.binary_linear(*case.values())
    check(library, case, [channels, 1, 1, filters, *([0] * 10)], rows, wanted)


def test_more_signs_than_two_bytes_can_count(library) -> None:
    columns = 70_000
    case = {
        "x": torch.ones(5, columns),
        "threshold": torch.zeros(columns),
        "packed": pack_signs(torch.cat([-torch.ones(1, columns), torch.randn(2, columns)])),
        "factor": torch.ones(3),
        "offset": torch.zeros(3),
    }
    wanted = torch.ops.leanly.binary_linear(*case.values())
    assert wanted[0, 0] == -columns
    check(library, case, [columns, 1, 1, 3, *([0] * 10)], 5, wanted)


def check(
    library: ctypes.CDLL,
    case: dict[str, torch.Tensor],
    sizes: list[int],
    batch: int,
    wanted: torch.Tensor,
    channels_last: bool = False,
) -> None:
    found = {level: run(library, level, case, sizes, batch, channels_last) for level in LEVELS}
    assert found["portable"] is not None
    for level in LEVELS:
        if found[level] is not None:
            np.testing.assert_allclose(found[level], wanted.numpy(), rtol=1e-5, atol=1e-5, err_msg=level)


def test_what_the_processor_lacks_is_refused(library) -> None:
    case = {name: torch.ones(1) for name in ("threshold", "factor", "offset")}
    case |= {"x": torch.ones(1, 1, 1, 1), "packed": torch.zeros(1, dtype=torch.uint8)}
    assert run(library, "no such level", case, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1], 1) is None

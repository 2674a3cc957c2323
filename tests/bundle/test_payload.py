"""Low-bit weights in a bundle: packed at rest, the runtime's very file when opened, and never something else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import leanly
from leanly.artifact import Artifact, Codes
from leanly.bundle import payload
from leanly.bundle.payload import HASH, SUFFIX, packed, unpacked
from leanly.errors import BundleError
from leanly.files import folder_bytes
from leanly.packing import packed_bytes
from leanly.quantize import Static


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, tuple[Codes, ...]]:
    content, codes = b"", []
    for _ in range(draw(st.integers(0, 4))):
        content += draw(st.binary(max_size=20))
        bits, low = draw(st.integers(1, 8)), draw(st.integers(-128, 0))
        values = draw(st.lists(st.integers(low, low + 2**bits - 1), max_size=30))
        codes.append(Codes("w", len(content), len(values), bits, low))
        content += np.array([value % 256 for value in values], np.uint8).tobytes()
    return content + draw(st.binary(max_size=20)), tuple(codes)


@given(files())
def test_the_very_file_comes_back(case: tuple[bytes, tuple[Codes, ...]]) -> None:
    content, codes = case
    small = packed(content, codes)
    assert unpacked(small, codes) == content
    kept = sum(entry.count - packed_bytes(entry.bits, entry.count) for entry in codes)
    assert len(small) == HASH + len(content) - kept


CONTENT = bytes(range(256))
FOUR = (Codes("w", 100, 8, 4, 100),)


@pytest.mark.parametrize(
    "codes",
    [
        (Codes("w", 10, 20, 4, 0), Codes("v", 15, 5, 4, 0)),
        (Codes("w", 250, 20, 4, 0),),
        (Codes("w", 0, 10**9, 1, 0),),
        (Codes("w", 10, -1, 4, 0),),
        (Codes("w", 10, 8, 9, 0),),
        (Codes("w", 10, 8, 0, 0),),
        (Codes("w", 101, 8, 4, 100),),
        (),
    ],
)
def test_other_codes_than_it_was_packed_with_are_refused(codes: tuple[Codes, ...]) -> None:
    with pytest.raises(ValueError):
        unpacked(packed(CONTENT, FOUR), codes)


def test_every_flipped_byte_is_refused() -> None:
    small = packed(CONTENT, FOUR)
    assert unpacked(small, FOUR) == CONTENT
    for place in range(len(small)):
        torn = bytearray(small)
        torn[place] ^= 1
        with pytest.raises(ValueError, match="hash"):
            unpacked(bytes(torn), FOUR)


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Artifact]:
    torch.manual_seed(0)
    x = torch.randn(32, 3, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 100)
    )
    task = leanly.Task(model.eval(), example=x[:2], train=(x, torch.arange(32) % 10))
    graph = leanly.capture(model, example=x[:2])
    target = leanly.Target("cpu")
    folder = tmp_path_factory.mktemp("lowered")
    return {
        bits: leanly.lower(
            Static(weights=bits)(graph, task, target), runtime="onnxruntime", to=folder / str(bits), precision="int8"
        )
        for bits in (4, 6)
    }


def test_a_bundle_holds_low_bits_packed_and_opens_to_the_same_numbers(lowered, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    sizes = {}
    for bits, artifact in lowered.items():
        assert {entry.bits for entry in artifact.codes} == {bits} and len(artifact.codes) == 3
        weights = 3 * 64 * 9 + 64 * 64 * 9 + 1024 * 100
        assert sum(entry.count for entry in artifact.codes) == weights
        root = leanly.bundle.save(tmp_path / f"{bits}.leanly", artifacts={1: artifact}, document={})
        sizes[bits] = folder_bytes(root)
        small = next(root.rglob(f"*{SUFFIX}"))
        assert artifact.bytes - small.stat().st_size == pytest.approx(weights * (8 - bits) / 8, abs=100)
        assert small.stat().st_size < artifact.payload_bytes + 20_000, "codes, and the structure of the network"
        with leanly.bundle.verify(root).path.joinpath("artifacts/batch-1/artifact.json").open() as file:
            assert "model.onnx" in file.read()
        found = leanly.load(root)
        wanted = leanly.runtimes.open_artifact(artifact).run([x])[0]
        np.testing.assert_array_equal(found(x), wanted)
        assert (found.artifact.folder / "model.onnx").read_bytes() == artifact.model.read_bytes()
    assert sizes[4] < sizes[6]


def test_a_packed_file_that_is_not_what_it_says_is_refused(lowered, tmp_path: Path) -> None:
    artifact = lowered[4]
    payload.write_packed(artifact, tmp_path)
    moved = replace(artifact, folder=tmp_path)
    assert payload.opened(moved).model.read_bytes() == artifact.model.read_bytes()
    path = tmp_path / f"model.onnx{SUFFIX}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"packed file is damaged.*model.onnx.packed"):
        payload.opened(moved)


def test_it_opens_without_torch_and_leaves_nothing_behind(lowered, tmp_path: Path) -> None:
    root = leanly.bundle.save(tmp_path / "m.leanly", artifacts={1: lowered[4]}, document={})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnx'] = None\n"
        "import numpy, leanly\n"
        f"print(leanly.load({str(root)!r})(numpy.zeros((2, 3, 8, 8), numpy.float32)).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    assert done.stdout == "(2, 100)\n" and not list(scratch.glob("leanly-*"))

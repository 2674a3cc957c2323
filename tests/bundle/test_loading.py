"""Opening a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import leanly
from leanly import bundle
from leanly.bundle.manifest import of_files
from leanly.bundle.verifying import walk
from leanly.errors import BundleError, DataError


def ones(rows: int) -> np.ndarray:
    return np.ones((rows, 3), dtype=np.float32)


def test_numpy_in_numpy_out(make_bundle: Callable[..., Path]) -> None:
    predictor = leanly.load(make_bundle())
    result = predictor(ones(1))
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, 2 * ones(1))


def test_torch_in_torch_out(make_bundle: Callable[..., Path]) -> None:
    torch = pytest.importorskip("torch")
    result = leanly.load(make_bundle())(torch.ones(1, 3))
    assert isinstance(result, torch.Tensor)
    assert torch.equal(result, torch.full((1, 3), 2.0))


@pytest.mark.parametrize(("rows", "factor"), [(1, 2), (2, 2), (8, 2), (9, 3), (16, 3), (64, 3)])
def test_a_call_goes_to_the_nearest_batch_size(make_bundle: Callable[..., Path], rows: int, factor: int) -> None:
    predictor = leanly.load(make_bundle())
    np.testing.assert_array_equal(predictor(ones(rows)), factor * ones(rows))
    np.testing.assert_array_equal(predictor.run([ones(rows)])[0], factor * ones(rows))


def test_of_two_as_near_the_one_for_more_rows(make_artifact, tmp_path: Path) -> None:
    artifacts = {1: make_artifact("one", 2.0), 3: make_artifact("three", 3.0)}
    predictor = leanly.load(bundle.save(tmp_path / "b", artifacts=artifacts, document={}))
    np.testing.assert_array_equal(predictor(ones(2)), 3 * ones(2))


def test_many_threads(make_bundle: Callable[..., Path]) -> None:
    predictor = leanly.load(make_bundle())
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda rows: predictor(ones(rows)).sum(), [1, 16] * 20))
    assert results == [6.0, 144.0] * 20


def test_wrong_calls_are_told_by_the_predictor(make_bundle: Callable[..., Path]) -> None:
    predictor = leanly.load(make_bundle())
    for wrong in (np.float32(1.0), np.ones((1, 4), np.float32), np.ones((0, 3), np.float32)):
        with pytest.raises(DataError):
            predictor(wrong)
    with pytest.raises(DataError):
        predictor()


def test_files_altered_between_hash_and_first_use_are_noticed(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    predictor = leanly.load(root)
    predictor(ones(1))
    model = root / "artifacts" / "batch-16" / "model.onnx"
    content = model.read_bytes()
    before = model.stat()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))  # the writer sets the clock back
    predictor(ones(1))  # opened before, by the file that was hashed
    with pytest.raises(BundleError, match="altered after"):
        predictor(ones(16))


def test_a_new_link_or_mode_is_no_alteration(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = make_bundle()
    predictor = leanly.load(root)
    os.link(root / "artifacts" / "batch-16" / "model.onnx", tmp_path / "backup")
    (root / "artifacts" / "batch-16" / "model.onnx").chmod(0o600)
    np.testing.assert_array_equal(predictor(ones(16)), 3 * ones(16))


def test_an_artifact_must_not_name_files_outside_what_was_hashed(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    described = root / "artifacts" / "batch-1" / "artifact.json"
    for name in ("../../../model.onnx", "absent.onnx"):
        content = json.loads(described.read_text())
        content["files"] = [name]
        described.write_text(json.dumps(content))
        names = [name for name in walk(root) if name != "manifest.json"]
        (root / "manifest.json").write_bytes(of_files(root, names, None).to_bytes())  # a maker with bad intent
        with pytest.raises(BundleError):
            leanly.load(root)


def test_torch_is_not_needed(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    code = (
        "import sys, leanly, numpy; sys.modules['torch'] = None\n"
        f"print(leanly.load({str(root)!r})(numpy.ones((1, 3), numpy.float32)).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("6.0\n", 0), done.stderr


def test_a_folder_of_lower_is_no_bundle(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    graph = leanly.capture(torch.nn.Linear(3, 2).eval(), example=torch.ones(2, 3))
    leanly.lower(graph, to=tmp_path / "a")
    with pytest.raises(BundleError, match=r"artifact of leanly\.lower.*open_artifact"):
        leanly.load(tmp_path / "a")

"""Writing a bundle whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from leanly import bundle
from leanly.artifact import Artifact, Plan
from leanly.errors import RunError, SettingError


def test_one_artifact_for_two_batch_sizes_is_stored_once(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    root = bundle.save(tmp_path / "b", artifacts={16: artifact, 1: artifact}, document={"best": 1})
    document = json.loads((root / "bundle.json").read_text())
    assert document == {"best": 1, "format": 1, "artifacts": {"1": "artifacts/batch-1", "16": "artifacts/batch-1"}}
    assert [path.name for path in (root / "artifacts").iterdir()] == ["batch-1"]


def test_the_same_files_run_otherwise_are_another_artifact(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    other = artifact.with_plans({16: Plan(threads=1, streams=2, rows=8)})
    root = bundle.save(tmp_path / "b", artifacts={1: artifact, 16: other}, document={})
    assert bundle.load(root).artifacts[16].plans == other.plans
    assert bundle.load(root).artifacts[1].plans == {}


def test_an_artifact_of_folders_is_copied_whole(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    (artifact.folder / "parts" / "deep").mkdir(parents=True)
    (artifact.folder / "parts" / "deep" / "a.bin").write_bytes(b"a")
    (artifact.folder / "parts" / "empty").mkdir()
    (artifact.folder / "left-over.log").write_text("not the artifact's")
    root = bundle.save(tmp_path / "b", artifacts={1: replace(artifact, files=("model.onnx", "parts"))}, document={})
    names = {path.relative_to(root / "artifacts" / "batch-1").as_posix() for path in root.rglob("*") if path.is_file()
             if "batch-1" in path.parts}  # fmt: skip
    assert names == {"artifact.json", "model.onnx", "parts/deep/a.bin"}
    bundle.verify(root)


def test_a_graph_that_saves_itself(make_artifact, tmp_path: Path) -> None:
    class Drawn:
        def save(self, folder: Path) -> None:
            folder.mkdir()
            (folder / "graph.json").write_text("{}")

    root = bundle.save(tmp_path / "b", artifacts={1: make_artifact()}, document={}, graph=Drawn())
    assert "graph/graph.json" in bundle.verify(root).files


def test_an_older_bundle_is_replaced_and_anything_else_is_not(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    root = bundle.save(tmp_path / "b", artifacts={1: artifact}, document={"best": 1})
    bundle.save(root, artifacts={1: artifact}, document={"best": 2})
    assert bundle.verify(root).document["best"] == 2

    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.tex").write_text("years")
    with pytest.raises(RunError, match="not a bundle"):
        bundle.save(work, artifacts={1: artifact}, document={})
    assert (work / "thesis.tex").read_text() == "years"


def test_a_failure_leaves_the_older_bundle_and_no_rubbish(make_artifact, tmp_path: Path) -> None:
    artifact = make_artifact()
    place = tmp_path / "out"
    root = bundle.save(place / "b", artifacts={1: artifact}, document={"best": 1})
    gone = replace(artifact, files=("model.onnx", "absent.bin"))
    with pytest.raises(FileNotFoundError):
        bundle.save(root, artifacts={1: gone}, document={"best": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        bundle.save(root, artifacts={1: artifact}, document={"drop": float("nan")})
    assert bundle.verify(root).document["best"] == 1
    assert [path.name for path in place.iterdir()] == ["b"]


def test_no_artifact_is_an_error(tmp_path: Path) -> None:
    none: dict[int, Artifact] = {}
    with pytest.raises(SettingError, match="no artifact"):
        bundle.save(tmp_path / "b", artifacts=none, document={})


def test_a_place_that_can_not_be_written(make_artifact, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be made"):
        bundle.save(tmp_path / "file" / "b", artifacts={1: make_artifact()}, document={})


def test_a_document_can_not_name_other_artifacts(make_artifact, tmp_path: Path) -> None:
    document = {"artifacts": {"1": "../elsewhere"}, "format": 99}
    root = bundle.save(tmp_path / "b", artifacts={1: make_artifact()}, document=document)
    assert bundle.verify(root).document["artifacts"] == {"1": "artifacts/batch-1"}

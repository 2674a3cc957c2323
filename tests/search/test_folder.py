from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from leanly.budget import Budget
from leanly.errors import RunError
from leanly.search.folder import RunFolder, begin_run, check_run, describe_run
from leanly.target import Target


def make(out: Path, *, resume: bool = False, **changes: Any) -> RunFolder:
    settings: dict[str, Any] = {
        "fingerprint": "f",
        "name": "digits",
        "metric": "accuracy",
        "budget": Budget(),
        "target": Target(threads=1),
        "seed": 0,
    }
    folder, about = RunFolder(out), describe_run(**{**settings, **changes})
    check_run(folder, about, resume=resume)
    begin_run(folder, about)
    return folder


def test_a_run_is_described(tmp_path: Path) -> None:
    about = make(tmp_path / "deep" / "run").read()
    assert about["task"] == {"name": "digits", "fingerprint": "f"}
    assert about["budget"]["max_drop"] == 0.01


def test_an_older_run_is_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "run")
    with pytest.raises(RunError, match="resume=True"):
        make(tmp_path / "run")
    make(tmp_path / "run", resume=True, budget=Budget(max_drop=0.02))
    assert RunFolder(tmp_path / "run").read()["budget"]["max_drop"] == 0.02


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_of_another_task_is_refused(tmp_path: Path, resume: bool) -> None:
    make(tmp_path / "run")
    with pytest.raises(RunError, match="another task"):
        make(tmp_path / "run", fingerprint="g", resume=resume)


def test_timings_of_another_target_or_version_are_not_mixed(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    with pytest.raises(RunError, match=r"another target .*batch_sizes"):
        make(tmp_path / "run", target=Target(threads=1, batch_sizes=(4,)), resume=True)
    file = folder.path / "run.json"
    about = json.loads(file.read_text())
    about["versions"]["onnxruntime"] = "0.1"
    file.write_text(json.dumps(about))
    with pytest.raises(RunError, match=r"versions .*onnxruntime"):
        make(tmp_path / "run", resume=True)


def test_a_folder_in_use_for_something_else_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        make(tmp_path, resume=True)


def test_an_out_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="What to do"):
        make(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(RunError, match="can't be"):
        make(tmp_path / "locked" / "run")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 99}', "{}"])
def test_a_damaged_or_newer_run_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError, match="What to do"):
        RunFolder(tmp_path).read()

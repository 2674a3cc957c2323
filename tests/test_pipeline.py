from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leanly import Budget, LeanlyWarning, Target, Task, load, optimize
from leanly.errors import DataError, RunError, SettingError
from leanly.pipeline import Result

TARGET = Target(threads=1, batch_sizes=(1, 4), runtimes=("onnxruntime",))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(8 * 64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).view(-1, 8 * 64))


def make_task(**changes: Any) -> Task:
    torch.manual_seed(0)
    model = Net().eval()
    images = torch.randn(1500, 1, 8, 8)
    with torch.inference_mode():
        # labels that the model gets right by a wide margin: int8 agrees with them
        scores = model(images)
    top = scores.topk(2).values
    images = images[(top[:, 0] - top[:, 1]) > 0.1]
    labels = scores.argmax(1)[(top[:, 0] - top[:, 1]) > 0.1]
    parts = [(images[a:b], labels[a:b]) for a, b in ((0, 200), (200, 500), (500, 1200))]
    settings: dict[str, Any] = dict(zip(("train", "validation", "test"), parts, strict=True))
    return Task(**{"model": model, "example": (images[:2],), "name": "tiny", **settings, **changes})


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("runs") / "run"
    return optimize(make_task(), Budget(max_drop=0.05, time="10s"), TARGET, out=out)


def test_a_run_ends_in_a_certified_artifact_and_a_bundle(ended: Result, tmp_path: Path) -> None:
    assert ended.finished and ended.certified and ended.met
    best = ended.best
    assert best is not None and best.artifact is not None
    assert {1, 4} == set(ended.best_by_batch)
    assert ended.reference.artifact is not None and ended.reference.runtime == "torch"
    bundle = ended.save(tmp_path / "model.leanly")
    images = make_task().test[0][:4]
    answers = load(bundle)(images)
    assert torch.equal(answers.argmax(1), make_task().test[1][:4])
    document = json.loads((bundle / "bundle.json").read_text())
    assert document["sentence"] == ended.sentence and document["certified"]
    assert (bundle / "measurements" / "000" / "measurement.json").exists()


def test_the_result_is_read_again_and_reported(ended: Result, tmp_path: Path) -> None:
    again = Result.open(ended.run)
    assert again.sentence == ended.sentence
    text = again.report(tmp_path / "report.html").read_text()
    assert "conv2d" in text and "tiny" in text
    assert "<table>" in ended._repr_html_()


def test_a_finished_run_resumes_without_making_anything_again(ended: Result, tmp_path: Path) -> None:
    shutil.copytree(ended.run, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "trials").glob("*/artifact/artifact.json")}
    result = optimize(make_task(), Budget(max_drop=0.05, time="2s"), TARGET, out=tmp_path / "run", resume=True)
    assert result.finished
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    # a copy lies beside nothing else: the uses are its own
    assert result.test is not None and ended.test is not None
    assert result.test["uses"] == ended.test["uses"] + bool(result.walk)


def test_a_run_named_relative_to_where_one_stands_resumes(
    ended: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ended.run, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    result = optimize(make_task(), Budget(max_drop=0.05, time="2s"), TARGET, out="run", resume=True)
    assert result.finished and (Path("run") / "result.json").exists()


@pytest.mark.parametrize(
    ("named", "given"), [("task", (nn.Linear(1, 1),)), ("budget", (None, "1%")), ("target", (None, None, "cpu"))]
)
def test_something_else_than_a_task_budget_or_target_is_refused(
    named: str, given: tuple[Any, ...], tmp_path: Path
) -> None:
    task, *others = given
    with pytest.raises(SettingError, match=f"{named} is a"):
        optimize(task or make_task(), *others, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="holds no run"):
        optimize(make_task(), Budget(time="2s"), TARGET, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_results_and_trials_are_short_in_a_shell(ended: Result) -> None:
    assert len(repr(ended)) < 2000 and ended.sentence in repr(ended)
    assert len(repr(ended.best)) < 200


def test_an_older_run_and_another_task_are_refused(ended: Result) -> None:
    with pytest.raises(RunError, match="resume=True"):
        optimize(make_task(), Budget(time="2s"), TARGET, out=ended.run)
    with pytest.raises(RunError, match="another task"):
        optimize(make_task(metric="f1"), Budget(time="2s"), TARGET, out=ended.run, resume=True)


def test_a_split_too_small_to_certify_is_said_before_any_work(tmp_path: Path) -> None:
    task = make_task()
    small = make_task(test=(task.test[0][:40], task.test[1][:40]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LeanlyWarning, match="40 rows certify a drop of"):
            optimize(small, Budget(max_drop=0.01, time="2s"), TARGET, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_task_without_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation"):
        optimize(make_task(validation=None), Budget(time="2s"), TARGET, out=tmp_path / "run")

"""`leanly optimize` as a process, on a model of a few weights."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.forked import python

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

TASK = """
import torch, leanly
torch.manual_seed(0)
torch.set_num_threads(1)
y = torch.arange(900) % 3
x = torch.nn.functional.one_hot(y, 4).float() + 0.1 * torch.randn(900, 4)
model = torch.nn.Linear(4, 3)
with torch.no_grad():
    model.weight.copy_(torch.eye(3, 4))
    model.bias.zero_()
task = leanly.Task(model.eval(), example=x[:2], train=(x[:300], y[:300]), validation=(x[300:600], y[300:600]),
                   test=(x[600:], y[600:]), name="three")
other = leanly.Task(model.eval(), example=x[:2], validation=(x[:500], y[:500]))
"""
OPTIONS = ["--max-drop", "5%", "--time", "8s", "--threads", "1", "--runtimes", "onnxruntime"]


def leanly(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "three.py").write_text(TASK)
    return python(["-m", "leanly", *arguments], folder)


def test_from_a_file_to_a_verified_bundle(tmp_path: Path) -> None:
    done = leanly(tmp_path, "optimize", "three.py:task", *OPTIONS)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "three"
    assert f"bundle: {Path('runs/three/model.leanly')}" in done.stdout
    assert "<html" in (run / "report.html").read_text()
    assert leanly(tmp_path, "verify", "runs/three/model.leanly").returncode == 0

    (run / "report.html").unlink()
    again = leanly(tmp_path, "report", "runs/three")
    assert again.returncode == 0, again.stderr
    assert (run / "report.html").is_file()

    refused = leanly(tmp_path, "optimize", "three.py:task", *OPTIONS)
    assert (refused.returncode, "--resume" in refused.stderr) == (2, True), refused.stderr
    another = leanly(tmp_path, "optimize", "three.py:other", *OPTIONS, "--out", "runs/three")
    assert (another.returncode, "another task" in " ".join(another.stderr.split())) == (2, True), another.stderr


def test_there_is_nothing_to_go_on_with(tmp_path: Path) -> None:
    done = leanly(tmp_path, "optimize", "three.py:task", *OPTIONS, "--resume", "--out", "typo")
    assert (done.returncode, "no run lies there" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "typo").exists()


def test_a_budget_that_nothing_meets(tmp_path: Path) -> None:
    done = leanly(tmp_path, "optimize", "three.py:task", *OPTIONS, "--speedup", "1000x", "--save", "kept")
    assert done.returncode == 1, done.stderr
    assert "not met: " in done.stdout
    assert leanly(tmp_path, "verify", "kept").returncode == 0
    assert (tmp_path / "runs" / "three" / "report.html").is_file()

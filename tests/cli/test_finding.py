"""Finding a task in a file of the user's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from leanly.cli.finding import find_task
from leanly.errors import SettingError

GOOD = """
import leanly, torch
from beside import WIDTH
task = leanly.Task(torch.nn.Linear(WIDTH, 2).eval(), example=torch.ones(2, WIDTH), name="plain")
def made():
    return leanly.Task(torch.nn.Linear(WIDTH, 2).eval(), example=torch.ones(2, WIDTH), name="made")
"""
BAD = """
number = 3
def fails():
    return {}["key"]
def needs(what):
    return what
def other():
    return 7
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "broken.py").write_text("import os\nx = (\n")
    (tmp_path / "wants.py").write_text("import a_package_that_is_not_there\n")
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name in ("beside", "good", "bad", "broken", "wants"):
            del sys.modules[name]


@pytest.mark.parametrize(("name", "called"), [("task", "plain"), ("made", "made")])
def test_a_task_or_a_function_that_returns_one(folder: Path, name: str, called: str) -> None:
    assert find_task(f"{folder / 'good.py'}:{name}").name == called


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("absent.py:task", "no such file"),
        ("good.py", "FILE.py:NAME"),
        ("good.py:", "FILE.py:NAME"),
        ("good.py:a.b", "FILE.py:NAME"),
        ("good.py:taks", "task"),
        ("bad.py:number", "number is a int, not a leanly.Task"),
        ("bad.py:other", "other is a int"),
        ("bad.py:fails", 'bad.py:4: return {}["key"]'),
        ("bad.py:needs", "missing 1 required positional argument"),
        ("broken.py:task", "broken.py:2"),
        ("wants.py:task", "a_package_that_is_not_there"),
    ],
)
def test_what_is_told_when_there_is_none(folder: Path, named: str, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        find_task(str(folder / named))
    assert said in str(caught.value)

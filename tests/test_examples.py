"""The examples are run as a reader would run them, in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forked import python

FOLDER = Path(__file__).resolve().parent.parent / "examples"
MOST_LINES = 39


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs_and_is_short(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    assert len(path.read_text().splitlines()) <= MOST_LINES
    done = python([path], tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip()

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leanly.errors import RunError
from leanly.search.journal import Journal, read_events


def test_events_survive(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.write("trial", number=1)
        journal.write("trial", number=2)
    with Journal(tmp_path / "j") as journal:
        assert [event["number"] for event in journal.events] == [1, 2]


@given(cut=st.integers(0, 200))
def test_a_torn_tail_is_cut_and_the_rest_kept(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    with Journal(path) as journal:
        for number in range(4):
            journal.write("trial", number=number)
    content = path.read_bytes()
    path.write_bytes(content[: max(len(content) - cut, 0)])
    whole = path.read_bytes().count(b"\n")
    with Journal(path) as journal:
        assert [event["number"] for event in journal.events] == list(range(whole))
        journal.write("trial", number=99)
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [*range(whole), 99]


def test_damage_before_the_last_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text('{"event": "a"}\n{"ev\n{"event": "b"}\n')
    with pytest.raises(RunError, match="line 2"):
        Journal(path)
    with pytest.raises(RunError, match="line 2"):
        read_events(path)


def test_two_processes_can_not_hold_one_run(tmp_path: Path) -> None:
    with Journal(tmp_path / "j"), pytest.raises(RunError, match="another process"):
        Journal(tmp_path / "j")
    with Journal(tmp_path / "j"):
        pass


def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't be written"):
        Journal(tmp_path / "nowhere" / "j")

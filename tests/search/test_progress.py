from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest

from leanly.artifact import Artifact
from leanly.measurement.records import Interval
from leanly.search import words
from leanly.search.progress import Lines, best_line
from tests.search.fakes import EAGER, FAST, FLOAT, Idea, World, begin


def test_plain_lines_tell_each_trial(tmp_path: Path) -> None:
    search = begin(World([FLOAT, FAST, Idea("int8 bad", 0.001, 0.5)]), tmp_path / "run")
    stream = io.StringIO()
    search.listener = Lines("accuracy", stream)
    search.explore()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("[ 2] int8 fast | accuracy 89.50 % (drop 0.50 points) | batch 1: 1.00 ms")
    assert "| pass |" in lines[2] and lines[2].endswith("left")
    assert "dropped: outside the budget" in lines[3]


def test_the_best_so_far_is_told_against_eager(tmp_path: Path) -> None:
    search = begin(World([FLOAT, FAST]), tmp_path / "run")
    search.explore()
    assert best_line(None, None) == "nothing measured yet"
    assert "int8 fast" in best_line(search.best_so_far(), search.reference)
    assert "10.0x eager" in best_line(search.best_so_far(), search.reference)
    assert search.reference.label == EAGER.name


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ({1: (0.5, 0.4, 0.6), 16: (0.6, 0.5, 0.7)}, ""),
        ({1: (0.5, 0.4, 0.6), 16: (1.1, 0.9, 1.2)}, "batch 16: storage only there"),
        ({1: (0.9, 0.8, 1.0), 16: (1.1, 0.9, 1.2)}, "batch 1 and 16: storage only there"),
    ],
)
def test_one_bit_that_is_no_faster_is_storage_only(ratios: dict[int, tuple[float, float, float]], told: str) -> None:
    other = Artifact(Path("a"), "onnxruntime", "int8", ("model",), (), (), 0, 0)
    found = {size: Interval(*ends) for size, ends in ratios.items()}
    for one_bit in (
        dataclasses.replace(other, precision="binary"),
        dataclasses.replace(other, code_bits={"conv.weight_int": 1}),
    ):
        said = words.one_bit_no_faster(one_bit, other, found)
        assert said.endswith(told) and bool(said) == bool(told)
        assert words.one_bit_no_faster(one_bit, one_bit, found) == words.one_bit_no_faster(other, one_bit, found) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.5e-5, "35.0 us"), (1.24e-3, "1.24 ms"), (0.25, "250 ms"), (3.2, "3.2 s"), (59.6, "60 s"), (185.0, "3 min 5 s")],
)
def test_durations_are_short(value: float, text: str) -> None:
    assert words.seconds(value) == text


def test_intervals_share_one_unit() -> None:
    assert words.latency(Interval(0.00124, 0.00121, 0.0013)) == "1.24 ms (1.21 to 1.30)"
    assert words.times(Interval(3.1, 2.95, 12.3)) == "3.10x (2.95 to 12.3)"
    assert words.drop_interval(Interval(0.0012, -0.0005, 0.0031), "accuracy") == "0.12 points (-0.05 to 0.31)"
    assert words.drop_interval(Interval(0.12, -0.05, 0.31), "mse") == "0.12 (-0.05 to 0.31)"
    assert words.size(1_700_000) == "1.70 MB"

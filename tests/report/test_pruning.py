"""The page of a cut: every step is there, every shade has its figure, and nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.costs import CostTable
from leanly.errors import SettingError
from leanly.prune import Channels, gradient, lamp, magnitude
from leanly.prune.importance import CRITERIA
from leanly.recipe import Recipe
from leanly.report.page import call_of
from leanly.report.pruning import verdict


@pytest.fixture(scope="module")
def cut() -> tuple[leanly.Graph, leanly.Graph, leanly.Task]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()
    x = torch.randn(200, 1, 8, 8)
    y = model(x).argmax(1)
    task = leanly.Task(model, example=x[:2], train=(x, y), validation=(x, y))
    graph = leanly.capture(model, example=x[:2]).eval()
    return graph, Channels(fraction=0.5)(graph, task), task


def test_the_page_shows_all_four_steps(cut, tmp_path: Path) -> None:
    graph, small, task = cut
    report = leanly.report.pruning(graph, small, task, tmp_path / "cut.html", criteria=(magnitude, gradient, lamp))
    text = (tmp_path / "cut.html").read_text()
    for heading in ("1. Trained", "2. Scored", "3. Pruned", "4. Verified"):
        assert heading in text
    for name in ("magnitude", "gradient", "lamp", "conv2d", "8 x 1 x 3 x 3", "4 x 1 x 3 x 3", "validation"):
        assert name in text
    shown = [f"{100 * share:.0f} %" for layer in report.layers for share in layer.taken.values()]
    assert all(share in text for share in shown)
    assert set(report.untrained) == {"magnitude", "gradient", "lamp"} and "before any training" in text
    assert "http" not in text and "<script" not in text
    assert f"{report.drop.n:,} rows" in text


def test_every_criterion_is_shown_where_none_is_named_and_progress_says_which_is_at_work(cut, tmp_path: Path) -> None:
    graph, small, task = cut
    told: list[str] = []
    report = leanly.report.pruning(graph, small, task, tmp_path / "cut.html", progress=told.append)
    assert {*report.criteria} == {*CRITERIA} - {"batch_norm_scale", "skipping"} and len(report.criteria) == 11
    assert {*report.untrained} == {*report.criteria}
    for silent in ("batch_norm_scale", "skipping"):
        assert any(f"{silent} says nothing here" in note for note in report.notes)
    assert [line for line in told if "gradient" in line and "expected" not in line] == [
        f"scored by gradient ({[*CRITERIA].index('gradient') + 1} of {len(CRITERIA)})",
        f"cut by gradient ({[*report.criteria].index('gradient') + 1} of {len(report.criteria)})",
    ]


@pytest.mark.parametrize("max_drop, expected", [(0.9, "good"), (0.0, "bad")])
def test_the_verdict_is_the_test_s(cut, tmp_path: Path, max_drop: float, expected: str) -> None:
    graph, small, task = cut
    report = leanly.report.pruning(graph, small, task, tmp_path / "cut.html", max_drop=max_drop)
    word, sentence = verdict(report)
    assert report.after < report.before - 0.05, "half of an untrained network loses much"
    assert word == expected and sentence in (tmp_path / "cut.html").read_text()
    same = leanly.report.pruning(graph, graph, task, tmp_path / "same.html", max_drop=0.0)
    assert verdict(same)[0] == "open"


def test_a_recipe_with_a_cost_table_stays_readable() -> None:
    costs = CostTable({f"conv{n}": ((1.0, 1.0, 1e-3), (2.0, 1.0, 2e-3)) for n in range(50)})
    (step,) = Recipe((Channels(latency=0.5, costs=costs),)).to_json()
    told = call_of(step)
    assert told.startswith("prune.Channels(latency=") and "costs=a table of 50 layers" in told
    assert "None" not in told and len(told) < 250
    assert Recipe.from_json([step]).passes[0] == Channels(latency=0.5, costs=costs)


def test_what_can_not_be_written_or_scored_is_refused_before_any_work(cut, tmp_path: Path) -> None:
    graph, small, task = cut
    told: list[str] = []
    for path, settings, match in (
        (tmp_path, {}, "a folder is there"),
        (tmp_path / "cut.html", {"criteria": magnitude}, "criteria is a function alone"),
    ):
        with pytest.raises(SettingError, match=match):
            leanly.report.pruning(graph, small, task, path, progress=told.append, **settings)
    assert not told and not [*tmp_path.iterdir()]

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from leanly.report import page
from leanly.report.plot import NARROW, WIDE, pareto_plot
from leanly.search import Outcome, finish
from tests.search.fakes import FAST, FLOAT, Idea, World, begin, outcome_of

VOID = {"meta", "br", "line", "path", "circle", "rect"}


class Reader(HTMLParser):
    """Checks that elements close in order, and collects what a reader and a browser see."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    ideas = [FLOAT, FAST, Idea("int8 bad", 0.0009, 0.5), Idea("int8 broken", 1.0, 1.0, fails=True)]
    search = begin(World([*ideas, Idea("int8 long", 0.1, 1.0, prior=1e6, precision="int8-long")]), tmp_path / "run")
    search.explore()
    return outcome_of(search, finish(search))


def read(outcome: Outcome) -> tuple[Reader, str]:
    html = page(outcome)
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader, html


def test_the_page_stands_alone(outcome: Outcome) -> None:
    reader, html = read(outcome)
    assert not re.search(r"https?:|//|url\(|@import|<script|<link|<img", html.replace("<!doctype", ""))
    assert len(reader.ids) == len(set(reader.ids))
    assert {link.removeprefix("#") for link in reader.links} <= set(reader.ids)
    assert all(link.startswith("#") for link in reader.links)


def test_the_verdict_comes_first_and_every_trial_is_told(outcome: Outcome) -> None:
    reader, _ = read(outcome)
    text = " ".join(reader.text.split())
    assert text.index("int8 fast: ") < text.index("Before and after")
    for trial in outcome.trials:
        assert trial.label in text
    assert "outside the budget on validation" in text and "the exporter failed" in text and "not tried" in text
    assert "certified" in text


def test_marks_can_be_reached_and_describe_themselves(outcome: Outcome) -> None:
    reader, _ = read(outcome)
    marks = [found for tag, found in reader.tags if tag == "g" and "tabindex" in found]
    # three measured trials and the bad one, two batch sizes, each drawn wide and narrow
    assert len(marks) == 4 * 2 * 2
    assert all("latency" in str(mark["aria-label"]) and "accuracy" in str(mark["aria-label"]) for mark in marks)


def test_weights_that_are_only_stored_in_few_bits_are_called_so(outcome: Outcome, monkeypatch: Any) -> None:
    assert "torage only" not in read(outcome)[0].text
    for trial in outcome.shipped_by_batch.values():
        assert trial.artifact is not None
        monkeypatch.setitem(trial.artifact.code_bits, "first.weight_int", 4)
    text = " ".join(read(outcome)[0].text.split())
    assert "Weights of 4 bits (1 tensor) are stored so and computed in int8: storage only." in text


def test_what_passes_noted_is_told_of_what_is_shipped(outcome: Outcome, monkeypatch: Any) -> None:
    for trial in outcome.shipped_by_batch.values():
        assert trial.artifact is not None
        noted = dataclasses.replace(trial.artifact, notes=("eager", "training: not kept", "prune.Refit: <none>"))
        monkeypatch.setitem(vars(trial), "artifact", noted)
    text = " ".join(read(outcome)[0].text.split())
    assert "Notes of its passes: training: not kept; prune.Refit: <none>." in text


def test_what_people_wrote_is_escaped(outcome: Outcome) -> None:
    changed = Outcome(**{**vars(outcome), "task": "<b>&\"'", "notes": ("<i>x</i>",)})
    html = page(changed)
    assert "<b>" not in html and "<i>" not in html and "&lt;b&gt;" in html


@pytest.mark.parametrize(
    ("changes", "badge"),
    [
        ({}, "certified"),
        ({"test": None}, "not certified"),
        ({"missed": ("a speed-up of 9x was asked for",)}, "budget not met"),
        ({"finished": False, "choices": {}, "front": (), "walk": ()}, "not ended"),
    ],
)
def test_the_badge_says_the_state(outcome: Outcome, changes: dict[str, Any], badge: str) -> None:
    reader, html = read(Outcome(**{**vars(outcome), **changes}))
    assert f">{badge}</span>" in html
    assert reader.text


@pytest.mark.parametrize("paper", [WIDE, NARROW])
def test_marks_lie_on_the_paper_with_their_intervals_around_them(outcome: Outcome, paper: Any) -> None:
    plot = pareto_plot(outcome, 1, paper)
    assert plot is not None
    for mark in plot.marks:
        assert paper.left <= mark.left <= mark.x <= mark.right <= paper.width - paper.right
        assert paper.top <= mark.top <= mark.y <= mark.bottom <= paper.height - paper.bottom
    by_number = {mark.number: mark for mark in plot.marks}
    # faster is further left, and what is far below the budget stands on the lower edge
    assert by_number[2].x < by_number[1].x < by_number[0].x
    assert by_number[3].y == max(mark.y for mark in plot.marks)
    assert plot.limit is not None and by_number[2].y < plot.limit < by_number[3].y
    assert by_number[2].shipped and by_number[2].on_front


def test_a_lone_reference_still_makes_a_page(tmp_path: Path) -> None:
    search = begin(World([]), tmp_path / "run")
    search.explore()
    reader, _ = read(outcome_of(search, finish(search)))
    assert "eager" in reader.text

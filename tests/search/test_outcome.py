from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leanly.errors import RunError
from leanly.search import Outcome, finish
from leanly.search.outcome import open_outcome
from tests.search.fakes import FAST, FLOAT, Idea, World, begin, outcome_of


def ended(world: World, out: Path, *, test: bool = True, **budget: float) -> Outcome:
    search = begin(world, out, test=test, **budget)  # type: ignore[arg-type]
    search.explore()
    outcome = outcome_of(search, finish(search))
    outcome.save()
    search.journal.close()
    return outcome


def test_an_outcome_is_read_again_as_it_was(tmp_path: Path) -> None:
    world = World([FLOAT, FAST, Idea("int8 bad", 0.001, 0.5), Idea("int8 broken", 1.0, 1.0, fails=True)])
    outcome = ended(world, tmp_path / "run")
    again = open_outcome(tmp_path / "run")
    assert again.sentence == outcome.sentence
    assert again.choices == outcome.choices and again.speedup == outcome.speedup
    assert again.front == outcome.front and again.walk == outcome.walk and again.notes == outcome.notes
    assert [(t.label, t.state, t.reason, t.ratio, t.verdict, t.certified) for t in again.trials] == [
        (t.label, t.state, t.reason, t.ratio, t.verdict, t.certified) for t in outcome.trials
    ]
    # samples are written to the nanosecond
    assert again.trials[2].latency[1].median == pytest.approx(outcome.trials[2].latency[1].median, abs=2e-9)
    assert again.met and again.certified
    best = again.best
    assert best is not None and best.label == FAST.name and best.proof is not None


def test_a_run_that_did_not_end_is_read_from_its_journal(tmp_path: Path) -> None:
    search = begin(World([FLOAT, FAST]), tmp_path / "run")
    search.explore()
    search.journal.close()
    outcome = open_outcome(tmp_path / "run")
    assert [trial.label for trial in outcome.trials] == ["eager", FLOAT.name, FAST.name]
    assert not outcome.finished and not outcome.met and outcome.best is None
    assert "not ended" in outcome.sentence


def test_a_run_without_a_trial_or_with_a_damaged_outcome_is_said(tmp_path: Path) -> None:
    search = begin(World([FLOAT]), tmp_path / "run")
    search.journal.close()
    with pytest.raises(RunError, match="no trial"):
        open_outcome(tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text('{"trials": 3}')
    with pytest.raises(RunError, match="damaged"):
        open_outcome(tmp_path / "run")
    with pytest.raises(RunError):
        open_outcome(tmp_path)


def test_the_sentence_says_how_much_faster_and_how_sure(tmp_path: Path) -> None:
    sentence = ended(World([FLOAT, FAST]), tmp_path / "run").sentence
    assert sentence.startswith("int8 fast: 4.0")
    assert "faster at batch 1 (1.00 ms against 4.00 ms)" in sentence and "at batch 16" in sentence
    assert "Certified on 100 test rows" in sentence and "accuracy 89.50 % against 90.00 %" in sentence
    assert "used once" in sentence


def test_the_sentence_says_when_nothing_is_certified(tmp_path: Path) -> None:
    sentence = ended(World([FLOAT, FAST]), tmp_path / "a", test=False).sentence
    assert "Not certified" in sentence and "no test split" in sentence
    sentence = ended(World([replace(FLOAT, test=0.89), FAST]), tmp_path / "b").sentence
    assert sentence.startswith("No artifact could be shown to be inside the budget (a drop of at most 1.00 points)")


def test_the_sentence_keeps_float_when_nothing_is_faster(tmp_path: Path) -> None:
    sentence = ended(World([FLOAT, Idea("int8", 0.00399, 0.9)]), tmp_path / "run").sentence
    assert sentence.startswith("Keep float32 onnxruntime: nothing inside the budget was shown to be faster")

from __future__ import annotations

from pathlib import Path

import pytest

from leanly.errors import LeanlyError, LeanlyWarning
from leanly.search.driver import TOLD
from tests.search.fakes import EAGER, FAST, FLOAT, Idea, World, begin


def test_trials_come_in_the_order_of_the_family(tmp_path: Path) -> None:
    world = World([FLOAT, FAST])
    search = begin(world, tmp_path / "run")
    search.explore()
    assert [trial.label for trial in search.trials] == ["eager", FLOAT.name, FAST.name]
    assert [trial.number for trial in search.trials] == [0, 1, 2]
    assert all(trial.state == "measured" for trial in search.trials)
    assert search.trials[2].verdict is not None and search.trials[2].verdict.outcome == "pass"


def test_a_candidate_that_fails_is_written_down_and_the_run_goes_on(tmp_path: Path) -> None:
    search = begin(World([Idea("int8 broken", 1, 1, fails=True), FAST]), tmp_path / "run")
    search.explore()
    assert [trial.state for trial in search.trials] == ["measured", "failed", "measured"]
    assert "exporter" in search.trials[1].reason


def test_a_fault_in_one_candidate_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    search = begin(World([Idea("int8 faulty", 1, -1, fails=True), FAST]), tmp_path / "run")
    with pytest.warns(LeanlyWarning, match="int8 faulty: unexpected RuntimeError: a fault"):
        search.explore()
    assert [trial.state for trial in search.trials] == ["measured", "failed", "measured"]


def test_a_reference_that_fails_is_the_end(tmp_path: Path) -> None:
    world = World([FAST])
    search = begin(world, tmp_path / "run")

    def refuse(*_: object) -> None:
        raise LeanlyError("the worker died")

    search.instruments = type(search.instruments)(
        refuse,  # type: ignore[arg-type]
        *(getattr(search.instruments, name) for name in ("retime", "prove", "judge")),
    )
    with pytest.raises(LeanlyError, match="the worker died"):
        search.explore()


def test_weak_trials_are_dropped_with_the_reason(tmp_path: Path) -> None:
    bad = Idea("int8 bad", 0.001, 0.5)
    slow = Idea("int8 slow", 0.009, 0.9)
    search = begin(World([FLOAT, bad, slow]), tmp_path / "run")
    search.explore()
    reasons = {trial.label: trial.reason for trial in search.trials if trial.state == "dropped"}
    assert "outside the budget" in reasons["int8 bad"]
    assert "slower" in reasons["int8 slow"]


def test_what_does_not_fit_in_the_time_is_not_tried_and_a_shorter_one_is(tmp_path: Path) -> None:
    ideas = [
        FLOAT,
        FAST,
        Idea("int8 long", 0.001, 0.9, prior=1000.0, precision="int8-long"),
        Idea("int8 b", 0.002, 0.9),
    ]
    world = World(ideas)
    search = begin(world, tmp_path / "run", time=40.0)
    search.explore()
    assert "int8 long" not in world.built and "int8 b" in world.built
    long = search.trials[3]
    assert long.state == "dropped" and "not tried" in long.reason
    assert any("not tried" in note for note in search.notes)


def test_of_many_that_do_not_fit_few_are_told_and_all_are_kept(tmp_path: Path) -> None:
    long = [Idea(f"int8 long {n}", 0.001, 0.9, prior=1000.0, precision=f"int8-{n}") for n in range(8)]
    search = begin(World([FLOAT, FAST, *long]), tmp_path / "run", time=40.0)
    search.explore()
    told = [line for line in search.listener.said if "not tried" in line]  # type: ignore[attr-defined]
    assert len(told) == TOLD and "report" in told[-1]
    assert sum("not tried" in trial.reason for trial in search.trials) == 8


def test_a_machine_that_was_slow_for_a_while_does_not_mislead(tmp_path: Path) -> None:
    world = World([FLOAT, FAST, Idea("int8 b", 0.0012, 0.895)], pace={FAST.name: 1.5, FLOAT.name: 3.0}, noise=0.0)
    search = begin(world, tmp_path / "run")
    search.explore()
    best = search.best_so_far()
    assert best is not None and best.label == FAST.name
    assert best.latency[1].median == pytest.approx(1.5 * FAST.latency), "what is shown is what was timed"
    assert best.medians[1] == pytest.approx(FAST.latency)
    search.journal.close()
    again = begin(world, tmp_path / "run", resume=True)
    again.explore()
    assert again.best_so_far().medians == best.medians  # type: ignore[union-attr]


def test_time_for_the_end_is_kept_back(tmp_path: Path) -> None:
    world = World([FLOAT, *(Idea(f"int8 {n}", 0.001 + n / 1e4, 0.9) for n in range(100))])
    search = begin(world, tmp_path / "run", time=60.0)
    search.explore()
    assert search.forecast.left >= 0.8 * search.reserve()
    assert 10 < len(world.built) < 40


def test_too_little_time_for_anything_but_float_is_said(tmp_path: Path) -> None:
    world = World([FLOAT, Idea("int8", 0.001, 0.9, build=3.0)], measure_seconds=1.0)
    search = begin(world, tmp_path / "run", time=8.0)
    search.explore()
    assert any("anything but the unmodified model" in note for note in search.notes)


def test_the_first_float_artifact_is_tried_however_slow_the_reference_was(tmp_path: Path) -> None:
    world = World([FLOAT, FAST], measure_seconds=4.0)
    search = begin(world, tmp_path / "run", time=8.0)
    search.explore()
    assert world.built == ["eager", FLOAT.name]


def test_no_time_for_anything_is_said(tmp_path: Path) -> None:
    search = begin(World([FLOAT, FAST], measure_seconds=9.0), tmp_path / "run", time=8.0)
    search.explore()
    assert any("anything but the model as it came" in note for note in search.notes)


def test_an_interruption_keeps_what_was_measured(tmp_path: Path) -> None:
    world = World([FLOAT, FAST, Idea("int8 b", 0.002, 0.9)], interrupt_at="int8 b")
    search = begin(world, tmp_path / "run")
    search.explore()
    assert search.interrupted
    assert [trial.label for trial in search.trials] == ["eager", FLOAT.name, FAST.name]


def test_a_killed_run_goes_on_without_building_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = World([FLOAT, FAST])
    search = begin(first, out)
    search.explore()
    search.journal.close()
    # as kill -9 leaves it: a torn line, and the folder of a trial that has none
    with open(out / "journal.jsonl", "ab") as file:
        file.write(b'{"event": "trial", "numb')
    (out / "trials" / "003").mkdir()
    second = World([FLOAT, FAST, Idea("int8 b", 0.002, 0.9)])
    search = begin(second, out, resume=True)
    search.explore()
    assert second.built == ["int8 b"]
    assert [trial.number for trial in search.trials] == [0, 1, 2, 3]
    before = search.trials[2].measurement
    assert before is not None and before.latency[1].median == FAST.latency


def test_a_trial_with_lost_files_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    search = begin(World([FLOAT, FAST]), out)
    search.explore()
    search.journal.close()
    (out / "trials" / "002" / "artifact" / "model").unlink()
    again = World([FLOAT, FAST])
    search = begin(again, out, resume=True)
    search.explore()
    assert again.built == [FAST.name]


def test_best_so_far_is_never_outside_the_budget(tmp_path: Path) -> None:
    search = begin(World([FLOAT, Idea("int8 bad", 0.0001, 0.5)]), tmp_path / "run")
    search.explore()
    best = search.best_so_far()
    assert best is not None and best.label == FLOAT.name
    assert search.reference.label == EAGER.name

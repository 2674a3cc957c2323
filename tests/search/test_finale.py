from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from leanly.search import Search
from leanly.search.finale import Finale, finish, order
from leanly.search.folder import TEST_USED, count_test_uses
from tests.search.fakes import EAGER, FAST, FLOAT, Idea, World, begin


def run(world: World, out: Path, *, hurry: float = 0.0, **settings: float) -> tuple[Search, Finale]:
    search = begin(world, out, **settings)  # type: ignore[arg-type]
    search.explore()
    world.clock.now += hurry
    return search, finish(search)


def label(search: Search, number: int | None) -> str | None:
    return next((trial.label for trial in search.trials if trial.number == number), None)


def test_the_fastest_certified_is_best(tmp_path: Path) -> None:
    world = World([FLOAT, FAST, Idea("int8 slower", 0.002, 0.899)])
    search, finale = run(world, tmp_path / "run")
    assert label(search, finale.choices[1].best) == FAST.name
    assert label(search, finale.choices[1].float_best) == FLOAT.name
    speedup = finale.choices[1].speedup
    assert speedup is not None and speedup.value == pytest.approx(4.0)
    assert finale.speedup is not None and finale.speedup.value == pytest.approx(4.0)
    assert finale.choices[1].eager_speedup.value == pytest.approx(10.0)  # type: ignore[union-attr]
    assert not finale.missed


def test_the_walk_goes_from_float_over_the_surest_to_the_fastest(tmp_path: Path) -> None:
    world = World([FLOAT, FAST, Idea("int8 exact", 0.002, 0.899)])
    search, finale = run(world, tmp_path / "run")
    assert [label(search, number) for number in finale.walk] == [FLOAT.name, "int8 exact", FAST.name]
    assert world.proven == ["eager", FLOAT.name, "int8 exact", FAST.name]


def test_the_walk_stops_at_the_first_that_does_not_pass(tmp_path: Path) -> None:
    world = World([FLOAT, FAST, Idea("int8 lucky", 0.002, 0.899, test=0.8)])
    search, finale = run(world, tmp_path / "run")
    assert world.proven == ["eager", FLOAT.name, "int8 lucky"]
    assert label(search, finale.choices[1].best) == FLOAT.name
    assert any("stopped at int8 lucky" in note for note in search.notes)
    assert f"not certified, since the walk stopped before it: {FAST.name}" in search.notes


def test_what_is_undecided_on_validation_comes_after_what_passes(tmp_path: Path) -> None:
    doubtful = Idea("int8 doubtful", 0.0005, 0.8911, test=0.8911)
    world = World([FLOAT, doubtful, FAST], allowed=0.01)
    search, finale = run(world, tmp_path / "run")
    assert world.proven == ["eager", FLOAT.name, FAST.name, doubtful.name]
    assert label(search, finale.choices[1].best) == FAST.name


def test_the_most_accurate_but_undecided_does_not_stop_the_walk(tmp_path: Path) -> None:
    world = World([FLOAT, FAST, Idea("int8 doubtful", 0.0005, 0.897)])
    search = begin(world, tmp_path / "run")
    search.explore()
    doubtful = search.trials[-1]
    assert doubtful.verdict is not None
    search.put(doubtful.replace(verdict=replace(doubtful.verdict, outcome="undecided")))
    finish(search)
    assert world.proven == ["eager", FLOAT.name, FAST.name, "int8 doubtful"]


def test_of_the_undecided_the_one_nearest_to_passing_is_walked_first(tmp_path: Path) -> None:
    near, far = Idea("int8 near", 0.0015, 0.8915), Idea("int8 far", 0.0005, 0.891)
    search = begin(World([FLOAT, far, near]), tmp_path / "run")
    search.explore()
    for trial, p_value in ((search.trials[-1], 0.06), (search.trials[-2], 0.3)):
        assert trial.verdict is not None
        search.put(trial.replace(verdict=replace(trial.verdict, outcome="undecided", p_value=p_value)))
    finish(search)
    assert [trial.label for trial in order(search, 5).trials] == [FLOAT.name, near.name, far.name]


def test_of_those_that_pass_on_validation_the_surest_is_walked_first(tmp_path: Path) -> None:
    lucky, sure = Idea("int8 lucky", 0.002, 0.899), Idea("int8 sure", 0.0015, 0.898)
    search = begin(World([FLOAT, lucky, sure]), tmp_path / "run")
    search.explore()
    for trial, chance in zip(search.trials[-2:], (0.04, 0.001), strict=True):
        assert trial.verdict is not None
        search.put(trial.replace(verdict=replace(trial.verdict, outcome="pass", p_value=chance)))
    finish(search)
    assert [trial.label for trial in order(search, 5).trials] == [FLOAT.name, sure.name, lucky.name]


def test_finalists_get_a_second_process_where_there_is_time(tmp_path: Path) -> None:
    for hurry, processes in ((0.0, 2), (10_000.0, 1)):
        world = World([FLOAT, FAST])
        run(world, tmp_path / str(processes), hurry=hurry)
        assert world.processes == [processes]


def test_timings_beside_other_work_are_noted(tmp_path: Path) -> None:
    world = World([FLOAT, FAST])
    _, finale = run(world, tmp_path / "quiet")
    assert finale.choices[1].best is not None
    search, _ = run(World([FLOAT, FAST], noise=0.6), tmp_path / "busy")
    assert any("timings were disturbed" in note for note in search.notes)
    search, _ = run(World([FLOAT, FAST]), tmp_path / "again")
    assert not any("timings were disturbed" in note for note in search.notes)


def test_a_short_walk_keeps_the_fastest_and_the_fastest_float(tmp_path: Path) -> None:
    half = Idea("bfloat16", 0.0025, 0.8999, precision="bfloat16")
    world = World([FLOAT, half, Idea("int8 exact", 0.002, 0.899), FAST])
    search, _ = run(world, tmp_path / "run")
    each = search.prove_seconds(None)
    walks = {n: [trial.label for trial in order(search, 5, seconds=(n + 0.5) * each).trials] for n in (0, 2, 3, 4)}
    assert walks[0] == walks[2] == [FLOAT.name, FAST.name], "one besides float32 is always walked"
    assert walks[3] == [FLOAT.name, half.name, FAST.name]
    assert walks[4] == [FLOAT.name, half.name, "int8 exact", FAST.name]


def test_an_undecided_one_is_never_best(tmp_path: Path) -> None:
    world = World([FLOAT, Idea("int8", 0.001, 0.9, test=0.89)])
    search, finale = run(world, tmp_path / "run")
    assert [trial.certified.outcome for trial in search.trials if trial.certified] == ["pass", "undecided"]
    assert label(search, finale.choices[1].best) == FLOAT.name
    assert finale.speedup is None


def test_nothing_certified_keeps_float_and_says_what_is_missed(tmp_path: Path) -> None:
    world = World([replace(FLOAT, test=0.89), FAST])
    search, finale = run(world, tmp_path / "run")
    choice = finale.choices[1]
    assert choice.best is None and label(search, choice.shipped) == FLOAT.name
    assert any("no artifact is certified" in text for text in finale.missed)


def test_a_slower_int8_is_never_returned(tmp_path: Path) -> None:
    world = World([FLOAT, Idea("int8", 0.00399, 0.9)])
    search, finale = run(world, tmp_path / "run")
    assert label(search, finale.choices[1].best) == FLOAT.name
    assert finale.choices[1].speedup is None


def test_each_batch_size_gets_its_own_artifact(tmp_path: Path) -> None:
    world = World(
        [FLOAT, Idea("int8 small", 0.001, 0.9, latency16=0.02), Idea("int8 large", 0.005, 0.9, latency16=0.004)]
    )
    search, finale = run(world, tmp_path / "run")
    assert label(search, finale.choices[1].best) == "int8 small"
    assert label(search, finale.choices[16].best) == "int8 large"


def test_eager_is_kept_when_it_is_the_fastest(tmp_path: Path) -> None:
    search, finale = run(World([replace(FLOAT, latency=0.02)]), tmp_path / "run")
    assert finale.choices[1].best == finale.choices[1].float_best == 0
    assert label(search, 0) == EAGER.name


def test_without_a_test_split_validation_decides_and_nothing_is_proven(tmp_path: Path) -> None:
    world = World([FLOAT, FAST])
    search, finale = run(world, tmp_path / "run", test=False)
    assert label(search, finale.choices[1].best) == FAST.name
    assert world.proven == [] and finale.walk == []


def test_faster_bfloat16_is_the_baseline_and_outside_the_budget_is_not(tmp_path: Path) -> None:
    half = Idea("bfloat16 openvino", 0.002, 0.9, precision="bfloat16")
    search, finale = run(World([FLOAT, half, FAST]), tmp_path / "a")
    assert label(search, finale.choices[1].float_best) == half.name
    search, finale = run(World([FLOAT, replace(half, metric=0.5), FAST]), tmp_path / "b")
    assert label(search, finale.choices[1].float_best) == FLOAT.name


def test_limits_on_bytes_and_latency_and_a_wanted_speedup(tmp_path: Path) -> None:
    # the fake artifact has as many bytes as microseconds
    world = World([FLOAT, Idea("int8 a", 0.001, 0.9), Idea("int8 b", 0.002, 0.9)])
    _, finale = run(world, tmp_path / "a", bytes=1500, speedup=3.0)
    assert not finale.missed
    _, finale = run(World(world.ideas), tmp_path / "b", latency=0.002)
    assert any("batch 16: median" in text for text in finale.missed)
    _, finale = run(World(world.ideas), tmp_path / "c", speedup=8.0)
    assert any("8x was asked for" in text for text in finale.missed)
    _, finale = run(World(world.ideas), tmp_path / "d", bytes=10)
    assert any("bytes >" in text for text in finale.missed)


def test_the_end_is_inside_the_time(tmp_path: Path) -> None:
    world = World([FLOAT, *(Idea(f"int8 {n}", 0.001 + n / 1e4, 0.9) for n in range(100))])
    run(world, tmp_path / "run", time=60.0)
    assert 45.0 < world.clock.now <= 63.0


def test_a_late_end_is_short(tmp_path: Path) -> None:
    world = World([FLOAT, *(Idea(f"int8 {n}", 0.003 - n / 1e4, 0.9 - n / 1e3) for n in range(6))])
    _, finale = run(world, tmp_path / "run", time=60.0, hurry=100.0)
    assert len(world.retimed[0]) <= 4
    assert len(finale.walk) <= 2


def test_an_interrupted_run_still_ends(tmp_path: Path) -> None:
    world = World([FLOAT, FAST, Idea("int8 b", 0.0005, 0.9)], interrupt_at="int8 b")
    search, finale = run(world, tmp_path / "run")
    assert label(search, finale.choices[1].best) == FAST.name


def test_uses_of_the_test_split_are_counted_over_runs_side_by_side(tmp_path: Path) -> None:
    for number in range(3):
        search, _ = run(World([FLOAT, FAST]), tmp_path / f"run{number}")
        search.journal.close()
        assert count_test_uses(tmp_path / f"run{number}", "digest") == number + 1
    assert count_test_uses(tmp_path / "run0", "another") == 0


def test_a_use_is_written_before_the_split_is_read(tmp_path: Path) -> None:
    world = World([FLOAT, FAST])
    search = begin(world, tmp_path / "run")
    search.explore()

    def die(_: object) -> None:
        raise KeyboardInterrupt

    search.instruments = replace(search.instruments, prove=die)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        finish(search)
    assert [event["event"] for event in search.journal.events][-1] == TEST_USED


def test_where_a_smaller_network_loses_too_much_on_test_the_whole_one_in_integers_is_left(tmp_path: Path) -> None:
    smaller = [Idea(f"smaller {n}", 0.0004 + 0.00001 * n, 0.8955, test=0.885, network="half") for n in range(6)]
    doubtful = [Idea(f"doubtful {n}", 0.0002 + 0.00001 * n, 0.8911, network="third") for n in range(3)]
    whole = Idea("int8 whole", 0.001, 0.899)
    search, finale = run(World([FLOAT, whole, *smaller, *doubtful], allowed=0.01), tmp_path / "run")
    walked = [str(label(search, number)) for number in finale.walk]
    assert walked[:2] == [FLOAT.name, whole.name] and walked[2].startswith("smaller") and len(walked) == 3
    assert label(search, finale.choices[1].best) == whole.name
    assert any(note.startswith("not certified, since the walk stopped") and "doubtful" in note for note in search.notes)


def test_where_integers_of_the_whole_network_lose_too_much_a_smaller_one_is_still_certified(tmp_path: Path) -> None:
    whole = Idea("int8 whole", 0.001, 0.899, test=0.885)
    smaller = Idea("smaller", 0.0004, 0.897, network="half")
    search, finale = run(World([FLOAT, whole, smaller]), tmp_path / "run")
    assert [label(search, number) for number in finale.walk] == [FLOAT.name, whole.name, smaller.name]
    assert label(search, finale.choices[1].best) == smaller.name
    assert any("stopped at int8 whole" in note for note in search.notes)


def test_what_passes_only_at_the_whole_error_rate_is_certified_once_the_other_branch_has_passed(tmp_path: Path) -> None:
    whole = Idea("int8 whole", 0.001, 0.899, test=0.893)
    for drop, best in ((0.001, whole.name), (0.02, FLOAT.name)):
        smaller = Idea("smaller", 0.0005, 0.8985, test=0.9 - drop, network="half", latency16=0.1)
        world = World([FLOAT, whole, smaller], strict=0.2)
        search, finale = run(world, tmp_path / best)
        assert label(search, finale.choices[16].best) == best
        assert world.proven == ["eager", FLOAT.name, whole.name, "smaller"], "predictions are made once"


def test_one_of_each_branch_is_walked_however_short_the_time(tmp_path: Path) -> None:
    whole = [Idea("int8 whole", 0.001, 0.899), Idea("int8 exact", 0.002, 0.8995)]
    smaller = [Idea("smaller", 0.0004, 0.898, network="half"), Idea("smallest", 0.0002, 0.8911, network="third")]
    search, _ = run(World([FLOAT, *whole, *smaller]), tmp_path / "run")
    assert [trial.label for trial in order(search, 3, seconds=0.0).trials] == [FLOAT.name, "int8 whole", "smaller"]

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from leanly.artifact import Artifact, Plan
from leanly.costs import NodeTimes
from leanly.distill import Distill
from leanly.errors import DataError, LeanlyWarning
from leanly.families.candidate import Candidate, mean_latency
from leanly.families.keeping import kept_network
from leanly.families.networks import Networks
from leanly.families.teaching import Teaching
from leanly.graph import Graph, capture
from leanly.prune import Channels
from leanly.quantize import CorrectBias, Equalize, Static, WeightsOnly
from leanly.recipe import Recipe
from leanly.target import Target
from leanly.task import Task
from tests.families.seen import Trial


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.flatten(1))


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    x, y = torch.randn(40, 1, 8, 8), torch.randint(0, 3, (40,))
    return Task(Net().eval(), example=(x[:2],), validation=(x, y), name="tiny")


@pytest.fixture(scope="module")
def graph(task: Task) -> Graph:
    return capture(task.model, example=task.example).eval()


def ask(
    family: Networks,
    judged: Callable[[Candidate], Trial],
    limit: int = 60,
    left: Callable[[list[Trial]], float] = lambda _: 100.0,
) -> list[Trial]:
    trials = [judged(family.reference())]
    while (candidate := family.propose(trials, left(trials))) is not None and len(trials) < limit:
        trials.append(judged(candidate))
    assert len(trials) < limit, "the family has no end of ideas"
    return trials


def judged(candidate: Candidate, *, outcome: str = "pass") -> Trial:
    """openvino is the faster runtime, int8 the faster precision."""
    seconds = 1.0 if candidate.runtime == "openvino" else 2.0
    seconds *= {"int8": 0.5, "bfloat16": 0.7, "float32": 1.0}[candidate.precision]
    float_layers = sum(len(step.float_nodes) for step in candidate.recipe.passes if isinstance(step, Static))
    return Trial(candidate, {1: seconds * (1 + 0.1 * float_layers)}, outcome, 0.001)


def labels(trials: list[Trial]) -> list[str]:
    return [trial.candidate.label for trial in trials]


def test_floats_come_first_then_int8_in_the_faster_runtime_and_compiling_last(graph: Graph, task: Task) -> None:
    target = Target(threads=1)
    found = ask(Networks(graph, task, target), judged)
    assert found[0].candidate.eager and found[0].candidate.precision == "float32"
    assert labels(found)[1:3] == ["float32 onnxruntime", "float32 openvino"]
    integers = [trial.candidate for trial in found if trial.candidate.precision == "int8"]
    assert [candidate.runtime for candidate in integers[:2]] == ["openvino", "onnxruntime"]
    assert labels(found)[-1] == "float32 torch.compile"
    assert ("bfloat16 openvino" in labels(found)) == target.bf16


def test_no_idea_comes_twice(graph: Graph, task: Task) -> None:
    keys = [trial.candidate.key for trial in ask(Networks(graph, task, Target(threads=2)), judged)]
    assert len(keys) == len(set(keys))


def test_accuracy_is_sought_only_where_it_lacks(graph: Graph, task: Task) -> None:
    target = Target(threads=1, runtimes=("onnxruntime",))
    good = labels(ask(Networks(graph, task, target), judged))
    bad = labels(ask(Networks(graph, task, target), lambda c: judged(c, outcome="fail")))
    assert not any("in float" in label for label in good)
    assert any("(percentile" in label for label in bad)
    assert any("in float" in label for label in bad)
    assert bad.index("int8 onnxruntime (percentile)") < next(i for i, label in enumerate(bad) if "in float" in label)


def test_layers_in_float_stop_at_the_first_that_passes(graph: Graph, task: Task) -> None:
    def rescued(candidate: Candidate) -> Trial:
        float_layers = any(isinstance(step, Static) and step.float_nodes for step in candidate.recipe.passes)
        return judged(candidate, outcome="pass" if float_layers or candidate.unmodified else "fail")

    found = ask(Networks(graph, task, Target(threads=1, runtimes=("onnxruntime",))), rescued)
    kept = {step.float_nodes for trial in found for step in trial.candidate.recipe.passes if isinstance(step, Static)}
    assert len(kept) == 2 and () in kept


@pytest.fixture(scope="module")
def taught(task: Task) -> Task:
    x = torch.randn(80, 1, 8, 8)
    return Task(task.model, example=(x[:2],), train=(x, torch.arange(80) % 3), validation=(x, torch.arange(80) % 3))


@pytest.mark.filterwarnings("ignore:The teacher is worse")
def test_int8_that_loses_too_much_is_mended_step_by_step(graph: Graph, taught: Task, tmp_path: Path) -> None:
    family = Networks(graph, taught, Target(threads=1, runtimes=("onnxruntime",)), smaller=False)
    found = ask(family, lambda c: judged(c, outcome="fail"))
    names = labels(found)
    steps = ["conv2d in float", "equalized", "biases corrected", "roundings learned", "trained"]
    places = [next(place for place, name in enumerate(names) if step in name) for step in steps]
    assert places == sorted(places)
    for place in places[1:]:
        candidate = found[place].candidate
        artifact = family.build(candidate, tmp_path / str(place))
        assert artifact.precision == "int8" and candidate.training >= 0
        assert candidate.label.startswith("int8 onnxruntime (mse, ")


@pytest.mark.parametrize("better", [True, False])
def test_what_is_mended_after_equalizing_stays_equalized_where_that_was_nearer(
    graph: Graph, taught: Task, better: bool
) -> None:
    def equalized(candidate: Candidate) -> bool:
        return any(isinstance(step, Equalize) for step in candidate.recipe.passes)

    def seen(candidate: Candidate) -> Trial:
        drop = 0.02 if equalized(candidate) == better else 0.03
        return replace(judged(candidate, outcome="pass" if candidate.unmodified else "fail"), drop=drop)

    found = ask(Networks(graph, taught, Target(threads=1, runtimes=("onnxruntime",)), smaller=False), seen)
    mended = [
        trial.candidate
        for trial in found
        if any(isinstance(step, CorrectBias) for step in trial.candidate.recipe.passes)
    ]
    assert mended and all(equalized(candidate) == better for candidate in mended)


def test_nothing_is_equalized_where_no_layers_follow_each_other() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.one(x)
            return self.two(y + x) + y

    x = torch.randn(8, 4)
    task = Task(Sums().eval(), example=(x[:2],), validation=(x, torch.arange(8) % 4))
    lone = capture(task.model, example=task.example).eval()
    names = labels(ask(Networks(lone, task, Target(threads=1)), lambda c: judged(c, outcome="fail")))
    assert any("biases corrected" in name for name in names) and not any("equalized" in name for name in names)


def test_what_is_mended_well_enough_is_mended_no_further(graph: Graph, taught: Task) -> None:
    def mended(candidate: Candidate) -> Trial:
        corrected = any(isinstance(step, CorrectBias) for step in candidate.recipe.passes)
        return judged(candidate, outcome="pass" if corrected or candidate.unmodified else "fail")

    names = labels(ask(Networks(graph, taught, Target(threads=1), smaller=False), mended))
    assert any("biases corrected" in name for name in names)
    assert not any("roundings learned" in name or "trained" in name for name in names)


def test_smaller_networks_are_mended_as_the_whole_one_is(graph: Graph, taught: Task) -> None:
    def mended(candidate: Candidate) -> Trial:
        corrected = any(isinstance(step, CorrectBias) for step in candidate.recipe.passes)
        trial = judged(candidate, outcome="pass" if corrected or candidate.unmodified else "fail")
        return Trial(candidate, {1: trial.medians[1] * (0.5 if candidate.network else 1.0)}, trial.outcome, 0.001)

    found = ask(Networks(graph, taught, Target(threads=1)), mended, limit=200)
    smaller = [trial.candidate for trial in found if trial.candidate.network and trial.candidate.precision == "int8"]
    assert smaller and all(isinstance(candidate.recipe.passes[-1], CorrectBias) for candidate in smaller)


@pytest.fixture(params=[False, True], ids=["no bfloat16", "bfloat16"])
def forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The precisions of a machine with bfloat16, and of one without."""
    monkeypatch.setattr(Target, "bf16", property(lambda target: request.param))
    return {"float32", "int8", *(["bfloat16"] if request.param else [])}


def test_packed_weights_are_tried_where_most_of_the_network_is_linear(
    graph: Graph, task: Task, forms: set[str]
) -> None:
    found = labels(ask(Networks(graph, task, Target(threads=1)), judged))
    assert not any("-bit weights" in name for name in found)
    x = torch.randn(40, 64)
    wide = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    rows = Task(wide, example=(x[:2],), validation=(x, torch.arange(40) % 3))
    found = labels(ask(Networks(capture(wide, example=(x[:2],)).eval(), rows, Target(threads=1)), judged))
    ways = ["onnxruntime", "openvino", *(["bfloat16 openvino"] if "bfloat16" in forms else [])]
    assert {name for name in found if "-bit weights" in name} == {
        f"{bits}-bit weights {way}" for bits in (4, 8) for way in ways
    }


@pytest.mark.parametrize(("limit", "sooner"), [(None, False), (999, True), (1000, False)])
def test_packed_weights_come_before_smaller_networks_where_int8_is_too_large(limit: int | None, sooner: bool) -> None:
    x = torch.randint(0, 40, (80, 64))
    layers = [nn.Embedding(40, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Flatten()]
    wide = nn.Sequential(*layers, nn.Linear(64 * 64, 3)).eval()
    rows = (x, torch.arange(80) % 3)
    job = Task(wide, example=(x[:2],), train=rows, validation=rows)
    family = Networks(capture(wide, example=(x[:2],)).eval(), job, Target(threads=1), max_bytes=limit)
    trials = ask(family, lambda one: replace(judged(one), bytes=1000 if one.precision == "int8" else 4000), limit=200)
    found = [trial.candidate for trial in trials]
    packed = [place for place, one in enumerate(found) if "4-bit weights and embeddings" in one.label]
    smaller = [place for place, one in enumerate(found) if one.network]
    assert packed and smaller and (min(packed) < min(smaller)) == sooner


def test_the_first_layer_in_float_is_the_one_that_gains_most_for_its_time(
    graph: Graph, task: Task, tmp_path: Path
) -> None:
    target = Target(threads=1, runtimes=("onnxruntime",))
    for dear, spared in (("conv2d", "conv2d_1"), ("conv2d_1", "conv2d")):

        def timed(graph: Graph, artifact: Artifact, size: int, beside: Artifact | None, dear: str = dear) -> NodeTimes:
            extra = 1.0 if artifact.precision == "float32" else 0.0
            layers = {"conv2d": 1.0, "conv2d_1": 1.0, "linear": 1.0 + 1e4 * extra, dear: 1.0 + 1e4 * extra}
            return NodeTimes(layers, sum(layers.values()))

        family = Networks(graph, task, target, timed=timed)

        def rejected(candidate: Candidate, family: Networks = family, dear: str = dear) -> Trial:
            if candidate.label in ("float32 onnxruntime", "int8 onnxruntime (mse)"):
                family.build(candidate, tmp_path / dear / candidate.key[:12])
            return judged(candidate, outcome="fail")

        found = ask(family, rejected, limit=20)
        steps = [step for trial in found for step in trial.candidate.recipe.passes if isinstance(step, Static)]
        assert next(step.float_nodes for step in steps if step.float_nodes) == (spared,)


def test_without_training_rows_it_says_that_nothing_smaller_was_tried(graph: Graph, task: Task) -> None:
    (told,) = Networks(graph, task, Target("cpu")).remarks([])
    assert "no smaller network was tried" in told and "train=" in told
    assert not Networks(graph, task, Target("cpu"), smaller=False).remarks([])


def test_the_smaller_network_is_tried_without_integers_too(graph: Graph, taught: Task) -> None:
    def smaller_is_faster(candidate: Candidate) -> Trial:
        trial = judged(candidate)
        return Trial(candidate, {1: trial.medians[1] * (0.5 if candidate.network else 1.0)}, "pass", 0.001)

    found = ask(Networks(graph, taught, Target(threads=1)), smaller_is_faster, limit=200)
    floats = [t.candidate for t in found if t.candidate.network and t.candidate.precision == "float32"]
    kinds = {candidate.runtime: {type(step) for step in candidate.recipe.passes} for candidate in floats}
    assert kinds.keys() == {"onnxruntime", "openvino"}, "the last of each is the one that was taught"
    assert all(Distill in found and Static not in found for found in kinds.values())


@pytest.mark.parametrize(("seconds", "variants_first"), [(1.0, True), (10.0, False)])
def test_smaller_networks_come_before_variants_of_the_whole_one_where_trials_are_dear(
    graph: Graph, taught: Task, seconds: float, variants_first: bool
) -> None:
    def takes(candidate: Candidate) -> Trial:
        return replace(judged(candidate), seconds=seconds)

    found = [trial.candidate for trial in ask(Networks(graph, taught, Target(threads=1)), takes, limit=200)]
    smaller = next(place for place, candidate in enumerate(found) if candidate.network)
    variants = [place for place, one in enumerate(found) if not one.network and "quantizers as" in one.label]
    assert variants and (min(variants) < smaller) == variants_first


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_smaller_networks_are_run_in_the_form_that_suits_them(
    graph: Graph, taught: Task, form: str, forms: set[str]
) -> None:
    def judge(candidate: Candidate) -> Trial:
        whole = judged(candidate).medians[1]
        small = 0.1 if candidate.precision == form else 0.3
        trained = any(isinstance(step, Distill) for step in candidate.recipe.passes)
        outcome = "pass" if trained or not candidate.network else "fail"
        return Trial(candidate, {1: small if candidate.network else whole}, outcome, 0.001, seconds=1.0)

    found = [
        t.candidate for t in ask(Networks(graph, taught, Target(threads=1)), judge, limit=200) if t.candidate.network
    ]
    first = next(place for place, candidate in enumerate(found) if candidate.training)
    assert {candidate.precision for candidate in found[:first]} == forms
    assert len({candidate.network for candidate in found[:4] if candidate.precision != form}) == 1, "one is enough"
    assert found[first].precision == form
    winners = {candidate.precision for candidate in found if Distill in map(type, candidate.recipe.passes)}
    assert winners == forms


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_the_form_that_suits_is_kept_once_there_is_no_time_to_compare(
    graph: Graph, taught: Task, form: str, forms: set[str]
) -> None:
    def judge(candidate: Candidate) -> Trial:
        seconds = 0.1 if candidate.network and candidate.precision == form else judged(candidate).medians[1]
        return replace(judged(candidate, outcome="fail" if candidate.network else "pass"), medians={1: seconds})

    def left(trials: list[Trial]) -> float:
        smaller = {trial.candidate.precision for trial in trials if trial.candidate.network}
        return 100.0 if len(smaller) < len(forms) else 8.0

    found = ask(Networks(graph, taught, Target(threads=1)), lambda one: replace(judge(one), seconds=1.0), left=left)
    smaller = [trial.candidate for trial in found if trial.candidate.network]
    compared = next(n for n, one in enumerate(smaller) if one.network != smaller[0].network)
    assert {one.precision for one in smaller[:compared]} == forms
    assert smaller[compared].precision == form


def test_a_cut_that_can_not_be_tried_is_left_out_with_a_warning(
    graph: Graph, taught: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> tuple[float, float]:
        raise DataError("outputs become NaN", where="Distill", remedy="take the rows out")

    family = Networks(graph, taught, Target(threads=1))
    ladder = family._make_ladder(family.reference(), None)
    monkeypatch.setattr(Teaching, "probe", fails)
    with pytest.warns(LeanlyWarning, match="MACs off channels can't be tried and is left out: outputs become NaN"):
        found = ladder.tries.chances(ladder.cuts, {}, lambda cut: 1.0, 100.0)
    assert found and set(found.values()) == {0.0}


def test_other_ways_to_run_are_tried_for_float_before_int8(graph: Graph, task: Task) -> None:
    found = ask(Networks(graph, task, Target(threads=2, batch_sizes=(1, 5), runtimes=("onnxruntime",))), judged)
    ways = [trial.candidate for trial in found if trial.candidate.plans]
    assert [candidate.precision for candidate in ways[:2]] == ["float32", "int8"]
    streams = next(candidate for candidate in ways if "2 streams" in candidate.label)
    assert streams.plans[5] == Plan(threads=1, streams=2, rows=3, static=False)
    assert streams.plans[1].streams == 1


def test_other_ways_to_run_are_tried_for_the_fastest_at_each_batch_size(graph: Graph, task: Task) -> None:
    speeds = {"onnxruntime": {1: 1.0, 5: 6.0}, "openvino": {1: 2.0, 5: 4.0}}

    def judge(candidate: Candidate) -> Trial:
        return Trial(candidate, speeds.get(candidate.runtime, {1: 9.0, 5: 9.0}), "pass", 0.0)

    found = ask(Networks(graph, task, Target(threads=2, batch_sizes=(1, 5))), judge)
    tried = {trial.candidate.runtime for trial in found if "one thread" in trial.candidate.label}
    assert tried == {"onnxruntime", "openvino"}


def test_the_fastest_whole_int8_is_calibrated_on_other_rows_where_there_are_some(graph: Graph, task: Task) -> None:
    x = torch.randn(400, 1, 8, 8)
    rows = Task(task.model, example=(x[:2],), train=(x, torch.arange(400) % 3), name="more rows than are needed")
    for given, draws in ((rows, {0, 1, 2, 3}), (task, {0})):
        found = ask(Networks(graph, given, Target(threads=1), smaller=False), judged)
        steps = [step for trial in found for step in trial.candidate.recipe.passes if isinstance(step, Static)]
        assert {step.draw for step in steps} == draws
        assert len({(step.observer, step.kernels) for step in steps if step.draw}) <= 1


def test_what_stands_around_the_quantizers_stays_where_others_rows_calibrate(graph: Graph, task: Task) -> None:
    x = torch.randn(400, 1, 8, 8)
    rows = Task(task.model, example=(x[:2],), train=(x, torch.arange(400) % 3), name="more rows than are needed")

    def judge(candidate: Candidate) -> Trial:
        mended = any(isinstance(step, CorrectBias) for step in candidate.recipe.passes)
        return replace(judged(candidate), outcome="pass" if mended else "fail")

    found = ask(Networks(graph, rows, Target(threads=1), smaller=False), judge)
    drawn = [
        trial.candidate
        for trial in found
        if any(isinstance(step, Static) and step.draw for step in trial.candidate.recipe.passes)
    ]
    assert len(drawn) == 3
    assert all(isinstance(candidate.recipe.passes[-1], CorrectBias) for candidate in drawn)
    assert len({candidate.key for candidate in drawn}) == 3


def test_build_lowers_and_runs_the_same_files_otherwise(graph: Graph, task: Task, tmp_path: Path) -> None:
    family = Networks(graph, task, Target(threads=1))
    candidate = Candidate("float32 onnxruntime", Recipe(), "onnxruntime", "float32")
    artifact = family.build(candidate, tmp_path / "a")
    plans = {1: Plan(threads=1, static=True)}
    other = family.build(Candidate("x", Recipe(), "onnxruntime", "float32", plans=plans), tmp_path / "b")
    assert other.model.read_bytes() == artifact.model.read_bytes() and other.model != artifact.model
    assert Artifact.open(tmp_path / "b").plans == plans
    assert Artifact.open(tmp_path / "a").plans == {}


def test_candidates_are_told_apart_by_how_they_are_run() -> None:
    one = Candidate("a", Recipe(), "openvino", "float32")
    two = Candidate("a", Recipe(), "openvino", "float32", plans={1: Plan(threads=1)})
    assert one.key != two.key and one.files_key == two.files_key
    assert one.key == Candidate("another name", Recipe(), "openvino", "float32").key
    assert mean_latency(Trial(one, {1: 2.0, 16: 8.0})) == pytest.approx(math.sqrt(16.0))


def test_a_smaller_network_is_kept_where_the_report_looks_for_it(graph: Graph, task: Task, tmp_path: Path) -> None:
    family = Networks(graph, task, Target(threads=1, runtimes=("onnxruntime",)), tmp_path / "graphs")
    recipe = Recipe((Channels(fraction=0.5), Static(kernels="onnxruntime")))
    family.build(Candidate("half", recipe, "onnxruntime", "int8", network="half"), tmp_path / "artifact")
    path = kept_network(tmp_path / "graphs", recipe)
    assert path is not None and 0 < Graph.open(path).cost().macs < graph.cost().macs
    assert len(list((tmp_path / "graphs").iterdir())) == 1, "the quantized one is quickly made again"


def test_what_is_packed_and_smaller_is_tried_in_integers_from_the_float_network(graph: Graph, taught: Task) -> None:
    family = Networks(graph, taught, Target(threads=1, runtimes=("onnxruntime",)))
    packed = Recipe((Channels(fraction=0.5), WeightsOnly(bits=4)))
    winner = Candidate("half, packed", packed, "onnxruntime", "float32", network="half")
    for candidate in family._other_integers(winner):
        assert [type(step) for step in candidate.recipe.passes] == [Channels, Static]

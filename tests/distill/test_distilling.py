"""Distill: a student comes nearer to its teacher, whoever that is and whatever it returns."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

import leanly
from leanly.distill import Distill, teachers
from leanly.errors import DataError, LeanlyWarning, RunError, SettingError, TrainingError
from leanly.training import Progress, Settings
from leanly.training.pace import Pace
from leanly.training.teachers import find_teacher
from tests.once import once
from tests.training.models import equal, image_task, images, weights
from tests.training.test_time import Clock

HOW = Settings(batch_size=16, precision="float32", learning_rate=0.01)


class Small(nn.Module):
    """A student of a shape of its own."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3, stride=2), nn.Linear(4, outputs)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


@once
def student(outputs: int = 3) -> leanly.Graph:
    torch.manual_seed(2)
    return leanly.capture(Small(outputs).eval(), example=images(2)[0])


@pytest.fixture(scope="module")
def taught() -> leanly.Task:
    """A task whose model was trained."""
    task = image_task(rows=192)
    trained = leanly.train(task, epochs=6, settings=HOW)
    task.model.load_state_dict(trained.state_dict())
    return task


def without_labels(task: leanly.Task) -> leanly.Task:
    x, y = task.train
    return leanly.Task(task.model, example=task.example, train=(x, torch.zeros_like(y)))


def far(graph: leanly.Graph, task: leanly.Task) -> float:
    """How far the student's chances are from the teacher's on new rows."""
    x, _ = images(200, seed=9)
    with torch.no_grad():
        return float((graph(x).softmax(1) - task.model(x).softmax(1)).abs().mean())


def test_a_student_learns_from_its_teacher_without_labels(taught):
    graph, task = student(), without_labels(taught)
    before = graph.fingerprint()
    learned = Distill(epochs=8, alpha=1.0, settings=HOW)(graph, task)
    assert far(learned, task) < 0.4 * far(graph, task)
    assert graph.fingerprint() == before and not learned.training


def test_it_is_no_training_on_labels(taught):
    with_teacher = Distill(epochs=2, alpha=0.9, settings=HOW)(student(), taught)
    labels = Distill(epochs=2, alpha=0.0, settings=HOW)(student(), taught)
    assert not equal(weights(with_teacher), weights(labels))
    assert equal(weights(labels), weights(leanly.train(taught, student(), epochs=2, settings=HOW)))


def test_teachers_of_all_kinds_teach_the_same(taught):
    captured = leanly.capture(taught.model, example=taught.example)
    learned = [
        weights(Distill(teacher, epochs=2, settings=HOW)(student(), taught))
        for teacher in ("original", captured, captured.clone().train(), taught.model)
    ]
    assert all(equal(learned[0], other) for other in learned[1:])


def test_outputs_that_are_kept_teach_what_computed_ones_do(taught, monkeypatch):
    task = without_labels(taught)
    kept = Distill(epochs=3, alpha=1.0, settings=HOW)(student(), task)
    monkeypatch.setattr(teachers, "LARGEST", 0)
    computed = Distill(epochs=3, alpha=1.0, settings=HOW)(student(), task)
    for name, tensor in weights(kept).items():
        torch.testing.assert_close(weights(computed)[name], tensor, rtol=1e-3, atol=1e-4)


class Mirrored(Dataset):
    def __init__(self, task: leanly.Task) -> None:
        self.x, self.y = task.train

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index):
        return (self.x[index].flip(2) if random.random() < 0.5 else self.x[index]), int(self.y[index])


def teacher_of(task: leanly.Task, epochs: int = 2, seconds: float | None = None, **settings) -> teachers.Teacher:
    graph, split = find_teacher("original", task, "Distill", torch.device("cpu")), task.split("train")
    return teachers.Teacher(graph, split, Settings(**settings), epochs, seconds, None)


def test_outputs_are_kept_only_where_rows_are_seen_again_unchanged(taught):
    assert teacher_of(taught).keeps
    assert not teacher_of(taught, augment=("flip",)).keeps
    assert not teacher_of(taught, epochs=1).keeps
    assert not teacher_of(leanly.Task(taught.model, example=taught.example, train=Mirrored(taught))).keeps
    # outputs kept for one student serve the next at any speed; those of a new task would cost more than the time
    assert teacher_of(taught, seconds=1e-9).keeps
    assert not teacher_of(without_labels(taught), seconds=1e-9).keeps


def test_the_teacher_runs_once_for_many_students(taught, monkeypatch):
    task, runs = without_labels(taught), []
    outputs_of = teachers.outputs_of
    monkeypatch.setattr(teachers, "outputs_of", lambda *given: runs.append(1) or outputs_of(*given))
    for _ in range(3):
        Distill(epochs=2, alpha=1.0, settings=HOW)(student(), task)
    assert len(runs) == 1
    Distill(leanly.capture(image_task().model, example=task.example), epochs=2, settings=HOW)(student(), task)
    assert len(runs) == 2, "another teacher has other outputs"


def test_a_model_that_was_trained_on_is_captured_again():
    task = image_task()
    first = find_teacher("original", task, "Distill", torch.device("cpu"))
    assert find_teacher("original", task, "Distill", torch.device("cpu")) is first
    with torch.no_grad():
        task.model.head.weight.add_(1)
    second = find_teacher("original", task, "Distill", torch.device("cpu"))
    assert torch.equal(second.state_dict()["head.weight"], task.model.head.weight)


class Embedding(nn.Module):
    """Two outputs in a dict, neither of them logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, width), nn.Linear(width, 4)

    def forward(self, x):
        hidden = torch.tanh(self.one(x))
        return {"tokens": self.two(hidden), "pooled": (self.two(hidden).sum(1), x.argmax(1))}


def test_embeddings_in_a_dict_are_matched_by_value():
    torch.manual_seed(0)
    x = torch.randn(128, 5)
    task = leanly.Task(Embedding(32).eval(), example={"x": x[:2]}, train=({"x": x}, torch.zeros(128)), metric="mse")
    graph = leanly.capture(Embedding(16).eval(), example={"x": x[:2]})
    learned = Distill(epochs=60, alpha=1.0, settings=HOW)(graph, task)
    new = torch.randn(100, 5)
    with torch.no_grad():
        expected = task.model(x=new)

    def error(found):
        return functional.mse_loss(found(x=new)["tokens"], expected["tokens"])

    assert error(learned) < 0.1 * error(graph)
    assert functional.mse_loss(learned(x=new)["pooled"][0], expected["pooled"][0]) < 0.5


class Swapped(nn.Module):
    """Gives what another does, under the same names in another order."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return dict(reversed(self.inner(x).items()))


class TwoHeads(nn.Module):
    """Two outputs of one shape, told apart by their names alone."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        return {"near": self.one(x), "far": self.two(x)}


def test_outputs_of_the_same_names_teach_each_other_in_any_order():
    torch.manual_seed(0)
    x, teacher = torch.randn(64, 5), TwoHeads().eval()
    task = leanly.Task(TwoHeads().eval(), example=x[:2], train=(x, torch.zeros(64)), metric="mse")
    learned = [
        weights(Distill(one, epochs=2, alpha=1.0, settings=HOW)(leanly.capture(task.model, example=x[:2]), task))
        for one in (teacher, Swapped(teacher).eval())
    ]
    assert equal(*learned)


def test_a_regression_with_labels():
    torch.manual_seed(0)
    x = torch.randn(128, 5)
    model = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 1)).eval()
    with torch.no_grad():
        y = model(x)
    task = leanly.Task(model, example=x[:2], train=(x, y + 0.1), validation=(x, y), metric="r2", loss="mse")
    graph = leanly.capture(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).eval(), example=x[:2])
    learned = Distill(epochs=60, alpha=0.9, settings=HOW)(graph, task)
    assert task.score(learned(x), y) > 0.8


def test_a_limit_of_time_holds_for_teacher_and_student(taught, monkeypatch):
    clock, seen = Clock(), []
    monkeypatch.setattr("leanly.training.loop.Pace", partial(Pace, clock=clock))

    def watch(progress: Progress) -> None:
        seen.append(progress)
        clock.now += 1.0

    with pytest.warns(LeanlyWarning, match="too short for one epoch"):
        Distill(epochs=9, time="8s", settings=HOW, progress=watch)(student(), without_labels(taught))
    assert 4 < seen[-1].step < 9


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(taught, tmp_path, monkeypatch):
    monkeypatch.setattr("leanly.training.checkpoints.SECONDS", 0.0)
    whole = Distill(epochs=2, settings=HOW)(student(), taught)

    def cut(progress: Progress) -> None:
        if progress.step == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Distill(epochs=2, settings=HOW, folder=tmp_path / "run", progress=cut)(student(), taught)
    seen: list[Progress] = []
    again = Distill(epochs=2, settings=HOW, folder=tmp_path / "run", progress=seen.append)(student(), taught)
    assert equal(weights(whole), weights(again)) and seen[0].step == 17
    with pytest.raises(leanly.LeanlyError, match="checkpoint of another run"):
        Distill(epochs=2, alpha=0.5, settings=HOW, folder=tmp_path / "run")(student(), taught)


def test_a_teacher_worse_than_its_student_is_warned_of(taught):
    good = leanly.capture(taught.model, example=taught.example)
    with pytest.warns(
        LeanlyWarning, match=r"teacher is worse than the student.*accuracy on validation is 0\.\d{4} and"
    ):
        Distill(image_task().model, epochs=1, settings=HOW)(good, taught)


def test_other_outputs_than_the_teachers(taught):
    told = r"student and teacher have other outputs: output float32 \['batch', 4\] and output float32 \['batch', 3\]"
    with pytest.raises(SettingError, match=told):
        Distill()(student(outputs=4), taught)
    narrow = leanly.capture(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), example=torch.rand(2, 2, 2, 2))
    with pytest.raises(SettingError, match="have other inputs"):
        Distill(narrow)(student(), taught)


def test_no_training_rows(taught):
    task = leanly.Task(taught.model, example=taught.example, validation=taught.validation)
    with pytest.raises(DataError, match=r"no split 'train'.*\(inputs, None\) to learn from a teacher alone"):
        Distill()(student(), task)
    with pytest.raises(DataError, match="no split 'train'"):
        Distill()(student())


def test_a_teacher_alone_needs_no_labels(taught):
    bare = replace(taught, train=(taught.train[0], None))
    for refused in (lambda: Distill()(student(), bare), lambda: leanly.train(bare)):
        with pytest.raises(DataError, match=r"needs targets, and the rows have none. Where: split 'train'"):
            refused()
    with_labels, without = (Distill(alpha=1.0, epochs=1)(student(), task).state_dict() for task in (taught, bare))
    assert all(torch.equal(tensor, without[name]) for name, tensor in with_labels.items())


def test_a_loss_that_is_no_number():
    x, y = images(48)
    x[3] = float("nan")
    task = leanly.Task(image_task().model, example=images(2)[0], train=(x, y))
    with pytest.raises(TrainingError, match=r"loss became nan.*epoch 1, batch \d"):
        Distill(settings=HOW)(student(), task)


@pytest.mark.parametrize(
    "wrong",
    [
        {"teacher": "orignal"},
        {"teacher": 3},
        {"epochs": 0},
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"alpha": 1.1},
        {"alpha": -0.1},
        {"time": "soon"},
        {"settings": {"speed": 3}},
    ],
    ids=str,
)
def test_settings_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(SettingError, match=name):
        Distill(**wrong)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cross_entropy", lambda o, t: functional.cross_entropy(o, t, label_smoothing=0.1)),
        (lambda o, t: functional.cross_entropy(2 * o, t), lambda o, t: functional.cross_entropy(3 * o, t)),
        (
            partial(functional.cross_entropy, label_smoothing=0.1),
            partial(functional.cross_entropy, label_smoothing=0.2),
        ),
    ],
)
def test_what_was_learned_by_another_loss_is_not_taken_for_this_one(tmp_path, one, other):
    about = image_task()
    tasks = [
        leanly.Task(about.model, example=about.example, train=about.train, metric="accuracy", loss=loss)
        for loss in (one, one, other)
    ]
    graph = leanly.capture(about.model, example=about.example)
    teach = Distill(epochs=1, alpha=0.5, settings=HOW, folder=tmp_path / "run")
    first = teach(graph, tasks[0])
    assert equal(weights(first), weights(teach(graph, tasks[1]))), "the same loss goes on"
    with pytest.raises(RunError, match="checkpoint of another run"):
        teach(graph, tasks[2])

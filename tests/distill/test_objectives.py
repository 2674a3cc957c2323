"""What is compared between student and teacher, against PyTorch's own functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import leanly
from leanly.distill.objectives import binary, classes, comparison, main_output, taught, values
from leanly.training.rows import TrainBatch


class Outputs(nn.Module):
    """A network whose outputs have any structure."""

    def __init__(self, build) -> None:
        super().__init__()
        self.layer, self.build = nn.Linear(4, 6), build

    def forward(self, x):
        return self.build(self.layer(x))


def task_of(build, targets, **settings) -> tuple[leanly.Graph, leanly.Task]:
    torch.manual_seed(0)
    x = torch.randn(len(targets), 4)
    model = Outputs(build).eval()
    return leanly.capture(model, example=x[:3]), leanly.Task(model, example=x[:3], train=(x, targets), **settings)


LABELS, REAL = torch.arange(12) % 6, torch.randn(12, 6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softened_classes(temperature):
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    expected = functional.kl_div(
        (student / temperature).log_softmax(1), (teacher / temperature).softmax(1), reduction="batchmean"
    )
    assert classes(student, teacher, temperature) == pytest.approx(float(expected) * temperature**2, rel=1e-5)
    assert float(classes(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)


def test_the_gradient_keeps_its_size_over_temperatures():
    teacher = torch.randn(50, 7)
    sizes = []
    for temperature in (2.0, 20.0):
        student = torch.zeros(50, 7, requires_grad=True)
        classes(student, teacher, temperature).backward()
        sizes.append(float(student.grad.norm()))
    assert 0.7 < sizes[0] / sizes[1] < 1.4


def test_softened_classes_of_maps_are_a_mean_over_places():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    flat = [logits.permute(0, 2, 3, 1).reshape(-1, 5) for logits in (student, teacher)]
    torch.testing.assert_close(classes(student, teacher, 3.0), classes(*flat, 3.0))


def test_one_logit_is_compared_as_a_chance():
    student, teacher = torch.randn(9, 1), torch.randn(9, 1)
    p = torch.sigmoid(teacher / 2)
    cross = functional.binary_cross_entropy_with_logits(student / 2, p)
    entropy = functional.binary_cross_entropy(p, p)
    assert float(binary(student, teacher, 2.0)) == pytest.approx(4 * float(cross - entropy), rel=1e-4)
    torch.testing.assert_close(binary(student[:, 0], teacher[:, 0], 2.0), binary(student, teacher, 2.0))


@pytest.mark.parametrize(
    ("build", "targets", "settings", "expected"),
    [
        (lambda y: y, LABELS, {}, classes),
        (lambda y: y, LABELS, {"metric": lambda a, b: 0.0}, classes),
        (lambda y: y, LABELS, {"metric": lambda a, b: 0.0, "loss": lambda a, b: a.sum()}, classes),
        (lambda y: y, LABELS // 2, {"metric": lambda a, b: 0.0, "loss": lambda a, b: a.sum()}, values),
        (lambda y: y, REAL, {"metric": "mse", "loss": "mse"}, values),
        (lambda y: y, REAL, {"metric": lambda a, b: 0.0}, values),
        (lambda y: y, REAL.softmax(1), {"metric": "mse", "loss": "kl"}, classes),
        (lambda y: y[:, :1], LABELS // 3, {"loss": "binary_cross_entropy"}, binary),
        (lambda y: y[:, 0], LABELS // 3, {}, binary),
        (lambda y: y.reshape(-1, 3, 2), torch.zeros(12, 2).long(), {"metric": lambda a, b: 0.0}, classes),
        (lambda y: {"hidden": y * 2, "logits": y}, LABELS, {}, classes),
    ],
)
def test_how_outputs_are_compared_follows_from_the_task(build, targets, settings, expected):
    assert comparison(*task_of(build, targets, **settings)) is expected


def test_named_logits_are_the_main_output():
    assert main_output(task_of(lambda y: {"hidden": y, "logits": y}, LABELS)[0]) == 1
    assert main_output(task_of(lambda y: (y, y * 2), LABELS)[0]) == 0


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_teacher_and_labels_are_mixed_and_other_outputs_compared_by_value(alpha):
    graph, task = task_of(lambda y: (y, y * 2, y.argmax(1)), LABELS)
    torch.manual_seed(1)
    student, teacher = [(torch.randn(12, 6), torch.randn(12, 6), LABELS) for _ in range(2)]

    def teach(batch):
        assert alpha > 0, "nobody asks the teacher"
        return teacher

    objective = taught(graph, task, teach, (0, 1, 2), temperature=2.0, alpha=alpha)
    found = objective(student, TrainBatch(0, 0, [], LABELS, None))
    expected = alpha * (classes(student[0], teacher[0], 2.0) + functional.mse_loss(student[1], teacher[1]))
    expected = expected + (1 - alpha) * functional.cross_entropy(student[0], LABELS)
    torch.testing.assert_close(found, expected)


def test_labels_are_not_read_where_only_the_teacher_counts():
    graph, task = task_of(lambda y: y, LABELS)
    objective = taught(graph, task, lambda batch: (REAL,), (0,), temperature=1.0, alpha=1.0)
    found = objective((REAL + 1,), TrainBatch(0, 0, [], torch.full((12,), 99), None))
    assert float(found) == pytest.approx(0, abs=1e-5)

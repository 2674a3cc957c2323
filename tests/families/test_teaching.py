"""Teaching: how long a round is, and where its learning rate begins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leanly.families.teaching import Teaching
from leanly.graph import capture
from leanly.target import Target
from leanly.task import Task
from leanly.training.optimizers import RATES

ROWS = 80


@pytest.fixture(scope="module")
def teaching() -> Teaching:
    torch.manual_seed(0)
    x, y = torch.randn(ROWS, 6), torch.randint(0, 3, (ROWS,))
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    task = Task(model, example=(x[:2],), train=(x, y), validation=(x[:20], y[:20]), name="tiny")
    return Teaching(capture(model, example=task.example).eval(), task, Target(threads=1))


def test_a_first_round_has_a_schedule_of_its_own(teaching: Teaching) -> None:
    lesson = teaching.lesson(3.0, 2.0, ())
    assert (lesson.epochs, lesson.rows, lesson.features) == (2, None, 3.0)
    assert lesson.settings == teaching.settings


def test_a_part_of_an_epoch_sees_fewer_rows_in_each(teaching: Teaching) -> None:
    lesson = teaching.lesson(0.0, 1.5, ())
    assert lesson.epochs == 2 and lesson.rows == 0.75 * ROWS


@pytest.mark.parametrize(("before", "epochs", "share"), [((1.0,), 1.0, 0.5), ((1.0, 2.0), 1.5, 0.25)])
def test_a_later_round_begins_where_one_schedule_of_all_rounds_would_be(
    teaching: Teaching, before: tuple[float, ...], epochs: float, share: float
) -> None:
    settings = teaching.lesson(0.0, epochs, before).settings
    assert settings.learning_rate == pytest.approx(share * RATES["adamw"])
    assert settings.seed == teaching.settings.seed + len(before)

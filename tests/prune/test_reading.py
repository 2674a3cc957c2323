"""Reading: rows of text without their padding, each with its own target, and what is computed from them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import leanly
from leanly.graph import capture
from leanly.prune import Channels, Refit, importance
from leanly.prune.reading import read_rows

ROWS, LONG, SHORT, WORDS = 60, 32, 8, 20


class Reader(nn.Module):
    """Means over the words that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.one, self.two = nn.Embedding(WORDS, 12), nn.Linear(12, 16), nn.Linear(16, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        each = self.two(torch.relu(self.one(self.table(ids)))) * mask[:, :, None]
        return self.head(each.sum(1) / mask.sum(1)[:, None])


def task_of(model: nn.Module, length: int) -> leanly.Task:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, SHORT + 1, (ROWS, 1), generator=generator)
    ids = torch.randint(1, WORDS, (ROWS, SHORT), generator=generator)
    ids = torch.cat([ids, torch.zeros(ROWS, length - SHORT, dtype=torch.long)], 1)
    mask = (torch.arange(length) < lengths).long()
    rows = (ids * mask, mask)
    return leanly.Task(model, example=tuple(one[:2] for one in rows), train=(rows, torch.arange(ROWS) % 3))


def model_of() -> nn.Module:
    torch.manual_seed(0)
    return Reader().eval()


def test_padding_is_left_out_and_rows_keep_their_targets() -> None:
    model = model_of()
    task = task_of(model, LONG)
    split = task.split("train")
    assert split is not None
    graph = capture(model, example=task.example)
    (running,), batches = read_rows([graph], split, 16, 48)
    assert all(inputs[0].shape[1] == SHORT for inputs, _ in batches) and sum(len(rows) for _, rows in batches) == 48
    (ids, mask), targets = split.take(torch.arange(48))
    seen = torch.cat([torch.cat([inputs[0], inputs[1], rows[:, None]], 1) for inputs, rows in batches])
    given = torch.cat([ids[:, :SHORT], mask[:, :SHORT], targets[:, None]], 1)
    assert sorted(seen.tolist()) == sorted(given.tolist())
    with torch.no_grad():
        found = torch.cat([running.flat(*inputs)[0] for inputs, _ in batches])
        torch.testing.assert_close(found.sum(0), graph(ids, mask).sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["activation_entropy", "fisher", "second_order"])
def test_criteria_see_no_padding(name: str) -> None:
    model = model_of()
    tasks = [task_of(model, length) for length in (LONG, SHORT)]
    padded, short = (importance.CRITERIA[name](capture(model, example=task.example), task) for task in tasks)
    for parameter, scores in padded.items():
        torch.testing.assert_close(scores.sum(), short[parameter].sum(), rtol=1e-3, atol=1e-9)


def test_a_refit_is_not_weighed_down_by_padding() -> None:
    model = model_of()
    outcomes = []
    for length in (LONG, SHORT):
        task = task_of(model, length)
        small = Channels(fraction=0.5, importance="magnitude", normalized=False)(capture(model, example=task.example))
        outcomes.append(Refit(damping=0.01)(small, task).state_dict())
    for name, weight in outcomes[0].items():
        torch.testing.assert_close(weight, outcomes[1][name], rtol=1e-3, atol=1e-4)


def test_a_stream_of_batches_of_several_lengths_is_read_as_it_is() -> None:
    model = model_of()
    rows = task_of(model, LONG).split("train")
    assert rows is not None
    (ids, mask), targets = rows.take(torch.arange(ROWS))
    parts = [
        ((ids[s : s + 20, :n], mask[s : s + 20, :n]), targets[s : s + 20]) for s, n in ((0, 24), (20, 32), (40, 24))
    ]
    task = leanly.Task(
        model,
        example=(ids[:2], mask[:2]),
        train=DataLoader(parts, batch_size=None),  # type: ignore[arg-type]
        dynamic={"ids": {1: "length"}, "mask": {1: "length"}},
    )
    graph = capture(model, example=task.example, dynamic=task.dynamic)
    split = task.split("train")
    assert split is not None
    _, batches = read_rows([graph], split, 20, ROWS)
    assert [inputs[0].shape[1] for inputs, _ in batches] == [SHORT] * 3
    small = Channels(fraction=0.5, normalized=False)(graph, task)
    assert Refit()(small, task)(ids[:3], mask[:3]).shape == (3, 3)

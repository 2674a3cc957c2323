"""Rows of a walk: as many as there is room for, read no further than that, and noted where they are fewer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import leanly
from leanly.graph import Graph
from leanly.graph.watching import Inside
from leanly.quantize import GPTQ, CorrectBias, Reconstruct, Static, room
from leanly.quantize.walking import Walk
from leanly.recipe import Pass
from tests.once import once

X = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
METHODS = (CorrectBias(), GPTQ(), Reconstruct(iterations=2), Reconstruct(iterations=2, unit="layer"))
FEW = 12_000
"""Bytes: each of 200 rows takes 16, and 528 around the widest layer."""


class Rows(Dataset):
    """Makes rows when they are asked for, and remembers the last that was."""

    last = -1

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        self.last = max(self.last, row)
        return X[row], 0


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(row, 0) for row in X])


@once
def captured() -> tuple[nn.Module, Graph]:
    widths = (4, 64, 8, 8, 3)
    layers = [part for sizes in pairwise(widths) for part in (nn.Linear(*sizes), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).eval()
    return model, leanly.capture(model, example=X[:2])


def narrowing(rows: object = None) -> tuple[Graph, leanly.Task]:
    """Return a network whose values are widest behind its first layer."""
    model, graph = captured()
    task = leanly.Task(model, example=X[:2], train=rows or (X, torch.zeros(200).long()))
    return Static()(graph, task), task


def test_rows_join_where_values_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, task = narrowing()
    _, exactly = captured()
    monkeypatch.setattr(room, "LARGEST", FEW)
    seen = []
    for stop in Walk(graph, task, 200, "Test", chunk=7, floats=graph):
        seen.append(sum(map(len, stop.exact)))
        for values, run in ((stop.exact, exactly), (stop.rough, graph)):
            (wanted,) = Inside(run, [stop.segment.entry])(X) if stop.segment.entry else (X,)
            torch.testing.assert_close(torch.cat(values), wanted[: seen[-1]], atol=0.02, rtol=0)
            if stop.segment.entry:
                assert len({chunk.untyped_storage().data_ptr() for chunk in values}) == 1, "pieces keep others from use"
    assert seen == [14, 14, 91, 112]
    assert graph.notes == (
        "quantize.Test: 14 to 112 of 200 calibration rows, since a row and its values between layers take up to "
        "0.0 MiB",
    )


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_no_more_rows_are_read_than_are_used(method: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    graph, task = narrowing(rows)
    monkeypatch.setattr(room, "LARGEST", FEW // 4)
    rows.last = -1
    (note,) = method(graph, task).notes
    assert note.startswith(f"quantize.{type(method).__name__}: ") and f" to {rows.last + 1} of 200 calibr" in note
    assert rows.last < 199


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("rows", [Rows(), Stream()], ids=["dataset", "stream"])
def test_where_all_rows_are_used_there_is_no_note(method: Pass, rows: object) -> None:
    assert method(*narrowing(rows)).notes == ()


@pytest.mark.parametrize("method", [CorrectBias(), GPTQ()], ids=str)
def test_how_many_rows_run_at_once_changes_nothing(method: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, task = narrowing()
    whole = method(graph, task)
    monkeypatch.setattr(room, "AT_ONCE", 2000)
    for name, tensor in method(graph, task).state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], atol=1e-3, rtol=1e-3)


class Offset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x + offset)))


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_an_input_that_carries_no_rows_stays_as_it_is(method: Pass) -> None:
    torch.manual_seed(0)
    model, example = Offset().eval(), (X[:2], torch.randn(4))
    task = leanly.Task(model, example=example, static=("offset",), train=(X, torch.zeros(200).long()))
    graph = Static(weights=3)(leanly.capture(model, example=example, static=("offset",)), task)
    assert method(graph, task).fingerprint() != graph.fingerprint()

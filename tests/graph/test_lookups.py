"""Lookups: ids that a table lacks are named before they are looked up, by every pass that reads rows."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError
from leanly.graph.lookups import tables
from leanly.quantize import GPTQ, Binary, CorrectBias, Mixed, Reconstruct, Smooth, Static, WeightsOnly
from leanly.recipe import Pass
from leanly.training import BatchNorm


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(10, 32), nn.Embedding(3, 32)
        self.one, self.norm, self.two, self.head = (
            nn.Linear(32, 32),
            nn.BatchNorm1d(32),
            nn.Linear(32, 32),
            nn.Linear(32, 4),
        )

    def forward(self, ids: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        seen = self.words(ids.long()) + self.kinds(kinds.reshape(-1, 6))
        return self.head(torch.relu(self.two(torch.relu(self.norm(self.one(seen.mean(1)))))))


def words(row: int, id: int) -> tuple[leanly.graph.Graph, leanly.Task]:
    torch.manual_seed(0)
    model, ids, kinds = Words().eval(), torch.randint(0, 10, (64, 6)), torch.randint(0, 3, (64, 2, 3))
    example = ids[:2].clone(), kinds[:2]
    ids[row, 3] = id
    task = leanly.Task(model, example=example, train=((ids, kinds), torch.arange(64) % 4))
    return leanly.capture(model, example=example), task


def test_inputs_and_their_tables() -> None:
    graph, _ = words(0, 0)
    assert tables(graph) == tables(WeightsOnly()(graph)) == {"ids": ("words.weight", 10), "kinds": ("kinds.weight", 3)}


METHODS = (Static(), Static(draw=1), Smooth(), Mixed(), Binary(), CorrectBias(), GPTQ(), Reconstruct(iterations=1))


@pytest.mark.parametrize("method", (*METHODS, BatchNorm()), ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("id", [99, -100])
def test_an_id_that_the_table_lacks_is_named(method: Pass, id: int) -> None:
    graph, task = words(20, id)
    given = WeightsOnly()(graph) if isinstance(method, CorrectBias | GPTQ | Reconstruct) else graph
    told = (
        f"input ids holds the id {id} in row 20, and the table words.weight has 10 rows, 0 to 9. Where: split 'train'"
    )
    with pytest.raises(DataError, match=re.escape(told)):
        method(given, task)

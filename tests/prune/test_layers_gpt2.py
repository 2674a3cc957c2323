"""GPT-2: norm first, so that the last norm of the network is no part of its last layer; causal, any length."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import leanly
from leanly.graph.blocks import find_blocks
from leanly.prune import Layers
from tests.prune.shortened import (
    assert_same,
    assert_saved_and_opened,
    assert_trains,
    by_layer,
    removed,
    spread,
    without,
)


def tokens(rows: int, length: int = 7) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(rows))}


@pytest.fixture(scope="module")
def case() -> tuple[GPT2LMHeadModel, leanly.Graph]:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=50, n_positions=16, use_cache=False)
    model = spread(GPT2LMHeadModel(config))
    return model, leanly.capture(model, example=tokens(2), dynamic={"input_ids": {1: "length"}})


@pytest.mark.parametrize("order", [[2], [0, 1], [0, 1, 2]], ids=str)
def test_whole_layers_leave(case, order, tmp_path, elsewhere):
    model, graph = case
    short = Layers(len(order), importance=by_layer(order, "transformer.h"))(graph)
    assert removed(short, "transformer.h") == order
    reference = copy.deepcopy(model)
    reference.transformer.h = without(reference.transformer.h, order)
    assert_same(short, reference, tokens)
    assert_same(short, reference, lambda rows: tokens(rows, length=12), rows=(1, 3))
    assert len(find_blocks(short)) == 3 - len(order)
    assert_trains(short)
    if order == [2]:
        assert_saved_and_opened(short, tmp_path, elsewhere)
    state = short.state_dict()
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()

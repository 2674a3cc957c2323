"""BERT: attention with its norm and feed-forward with its norm are one layer; length and mask stay as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import BertConfig, BertModel

import leanly
from leanly.graph.blocks import find_blocks
from leanly.prune import Layers
from tests.prune.shortened import (
    assert_lowered,
    assert_same,
    assert_saved_and_opened,
    assert_trains,
    by_layer,
    removed,
    spread,
    without,
)


def tokens(rows: int, length: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[0, length // 2 :] = 0
    return {"input_ids": torch.randint(0, 50, (rows, length), generator=generator), "attention_mask": mask}


@pytest.fixture(scope="module")
def case() -> tuple[BertModel, leanly.Graph]:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, vocab_size=50,
        max_position_embeddings=16,
    )  # fmt: skip
    model = spread(BertModel(config))
    length = {1: "length"}
    dynamic = {"input_ids": length, "attention_mask": length}
    return model, leanly.capture(model, example=tokens(2), dynamic=dynamic)


def reference(model: BertModel, gone: list[int]) -> BertModel:
    twin = copy.deepcopy(model)
    twin.encoder.layer = without(twin.encoder.layer, gone)
    return twin


@pytest.mark.parametrize("order", [[1], [3], [0, 2], [0, 1, 2, 3]], ids=str)
def test_whole_layers_leave(case, order):
    model, graph = case
    assert len(find_blocks(graph)) == 4
    short = Layers(len(order), importance=by_layer(order, "encoder.layer"))(graph)
    assert removed(short, "encoder.layer") == sorted(order)
    assert_same(short, reference(model, order), tokens)
    assert_same(short, reference(model, order), lambda rows: tokens(rows, length=14), rows=(1, 3))
    assert short.inputs[0].shape == ("batch", "length") and short.outputs[0].shape == ("batch", "length", 32)


def test_one_layer_that_is_left_is_still_one(case):
    _, graph = case
    short = Layers(3, importance=by_layer([0, 1, 2], "encoder.layer"))(graph)
    assert len(find_blocks(short)) == 1
    assert [block.exit for block in find_blocks(short)] == [find_blocks(graph)[-1].exit]


def test_trained_saved_opened_shortened_again_and_lowered(case, tmp_path, elsewhere):
    model, graph = case
    once = Layers(1, importance=by_layer([2], "encoder.layer"))(graph)
    assert_trains(once)
    assert_saved_and_opened(once, tmp_path, elsewhere)
    again = Layers(1, importance=by_layer([0], "encoder.layer"))(leanly.Graph.open(tmp_path / "graph"))
    assert removed(again, "encoder.layer") == [0, 2]
    assert_same(again, reference(model, [0, 2]), tokens)
    assert_lowered(again, tmp_path, tokens)

"""Layers of other kinds: rotary positions, cross-attention, parallel feed-forward, shared weights, mixers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel, LlamaConfig, LlamaModel, T5Config, T5EncoderModel

import leanly
from leanly.graph.blocks import find_blocks
from leanly.prune import Layers
from tests.prune.shortened import assert_same, assert_trains, by_layer, removed, spread, without


def ids(rows: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, 50, (rows, 7), generator=torch.Generator().manual_seed(rows))}


def test_llama_whose_rotary_sums_are_no_blocks():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
        vocab_size=50, max_position_embeddings=16, use_cache=False,
    )  # fmt: skip
    model = spread(LlamaModel(config))
    graph = leanly.capture(model, example=ids(2), dynamic={"input_ids": {1: "length"}})
    short = Layers(1, importance=by_layer([1], "layers"))(graph)
    assert removed(short, "layers") == [1] and len(find_blocks(short)) == 2
    reference = copy.deepcopy(model)
    reference.layers = without(reference.layers, [1])
    assert_same(short, reference, ids)
    assert_trains(short)


def test_t5_whose_first_layer_makes_the_positions_of_all():
    torch.manual_seed(0)
    config = T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, vocab_size=50, use_cache=False)
    model = spread(T5EncoderModel(config))
    graph = leanly.capture(model, example=ids(2))
    short = Layers(2, importance=by_layer([1, 2], "encoder.block"))(graph)
    assert removed(short, "encoder.block") == [1, 2]
    reference = copy.deepcopy(model)
    reference.encoder.block = without(reference.encoder.block, [1, 2])
    assert_same(short, reference, ids)
    first = Layers(1, importance=by_layer([0], "encoder.block"))(graph)
    assert not any("relative_attention_bias" in name for name in first.kept)
    assert_trains(first)


@pytest.mark.parametrize("normed_first", [False, True])
def test_a_decoder_that_attends_to_two_things(normed_first):
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerDecoderLayer(16, 2, 24, batch_first=True, norm_first=normed_first)
            self.decoder = nn.TransformerDecoder(layer, 3, nn.LayerNorm(16) if normed_first else None)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.head(self.decoder(x, memory))

    def inputs(rows: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(rows)
        return torch.randn(rows, 5, 16, generator=generator), torch.randn(rows, 6, 16, generator=generator)

    torch.manual_seed(0)
    model = spread(Decoder())
    graph = leanly.capture(model, example=inputs(2))
    assert len(find_blocks(graph)) == 3
    short = Layers(2, importance=by_layer([2, 0], "decoder.layers"))(graph)
    assert removed(short, "decoder.layers") == [0, 2]
    reference = copy.deepcopy(model)
    reference.decoder.layers = without(reference.decoder.layers, [0, 2])
    assert_same(short, reference, inputs)
    assert_trains(short)


def test_a_feed_forward_beside_its_attention():
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mix = nn.LayerNorm(12), nn.MultiheadAttention(12, 2, batch_first=True)
            self.one, self.two = nn.Linear(12, 20), nn.Linear(20, 12)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.mix(y, y, y, need_weights=False)[0] + self.two(torch.relu(self.one(y))) + x

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.norm = nn.ModuleList(Parallel() for _ in range(3)), nn.LayerNorm(12)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return self.norm(x)

    def inputs(rows: int) -> Tensor:
        return torch.randn(rows, 4, 12, generator=torch.Generator().manual_seed(rows))

    torch.manual_seed(0)
    model = spread(Model())
    graph = leanly.capture(model, example=inputs(2))
    short = Layers(1, importance=by_layer([1], "layers"))(graph)
    reference = copy.deepcopy(model)
    reference.layers = without(reference.layers, removed(short, "layers"))
    assert removed(short, "layers") == [1]
    assert_same(short, reference, inputs)


def test_a_mixer_of_places_and_channels():
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(10) for _ in range(2))
            self.places = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
            self.channels = nn.Sequential(nn.Linear(10, 8), nn.GELU(), nn.Linear(8, 10))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.places(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norms[1](x))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.norm = nn.ModuleList(Mixer() for _ in range(3)), nn.LayerNorm(10)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return self.norm(x).mean(1)

    def inputs(rows: int) -> Tensor:
        return torch.randn(rows, 6, 10, generator=torch.Generator().manual_seed(rows))

    torch.manual_seed(0)
    model = spread(Model())
    graph = leanly.capture(model, example=inputs(2))
    assert len(find_blocks(graph)) == 3
    short = Layers(2, importance=by_layer([1, 0], "layers"))(graph)
    reference = copy.deepcopy(model)
    reference.layers = without(reference.layers, removed(short, "layers"))
    assert_same(short, reference, inputs)
    assert_trains(short)


def test_layers_that_share_their_weights_leave_them_behind():
    torch.manual_seed(0)
    config = AlbertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, vocab_size=50,
        embedding_size=16, max_position_embeddings=16,
    )  # fmt: skip
    model = spread(AlbertModel(config))
    graph = leanly.capture(model, example=ids(2))
    short = Layers(1)(graph)
    assert not short.kept and set(short.state_dict()) == set(graph.state_dict())
    reference = copy.deepcopy(model)
    reference.config.num_hidden_layers = reference.encoder.config.num_hidden_layers = 2
    assert_same(short, reference, ids)

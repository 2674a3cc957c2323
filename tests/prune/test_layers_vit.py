"""Networks of images that attend: ViT, and Swin with windows that shift in every second layer."""

from __future__ import annotations

import copy

import torch
from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification

import leanly
from leanly.graph.blocks import find_blocks
from leanly.prune import Layers
from tests.prune.shortened import assert_lowered, assert_same, assert_trains, by_layer, removed, spread, without


def test_vit(tmp_path):
    def images(rows: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(rows))}

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=4
    )
    model = spread(ViTForImageClassification(config))
    graph = leanly.capture(model, example=images(2))
    short = Layers(2, importance=by_layer([2, 0], "vit.layers"))(graph)
    assert removed(short, "vit.layers") == [0, 2]
    reference = copy.deepcopy(model)
    reference.vit.layers = without(reference.vit.layers, [0, 2])
    assert_same(short, reference, images)
    assert_trains(short)
    assert_lowered(short, tmp_path, images)


def test_swin():
    def images(rows: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(rows))}

    torch.manual_seed(0)
    config = SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 4], num_heads=[2, 4], window_size=4)
    model = spread(SwinForImageClassification(config))
    graph = leanly.capture(model, example=images(2))
    assert len(find_blocks(graph)) == 6
    stage = "swin.encoder.layers.1.blocks"
    short = Layers(3, importance=by_layer([1, 0, 3], stage))(graph)
    assert removed(short, stage) == [0, 1, 3]
    reference = copy.deepcopy(model)
    reference.swin.encoder.layers[1].blocks = without(reference.swin.encoder.layers[1].blocks, [0, 1, 3])
    assert_same(short, reference, images)
    assert_trains(short)

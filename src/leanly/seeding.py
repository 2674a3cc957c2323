"""Random numbers as a function of a seed and the place in a run, so that a run can go on from any step."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_of(*parts: int | str) -> int:
    """Return 32 bits that follow from the parts: (seed, "order", epoch)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")


def reseed(*parts: int | str) -> None:
    """Seed Python, numpy and torch from the parts; no state of a generator has to be kept for a run to go on."""
    _seed(seed_of(*parts))


@contextlib.contextmanager
def fixed_random(seed: int = 0) -> Iterator[None]:
    """Seed Python, numpy and torch while the block runs, and put their states back after it."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - the generator that augmentations use
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        _seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002


def _seed(seed: int) -> None:
    # torch.manual_seed writes down a traceback for each kind of device that is not in use: longer than a small step
    torch.default_generator.manual_seed(seed)
    for kind in (torch.cuda, torch.xpu):
        if kind.is_initialized():
            kind.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002

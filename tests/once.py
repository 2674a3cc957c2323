"""What many tests start from, made once: capturing a network takes longer than most of what is done with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def once(make: Callable[P, T]) -> Callable[P, T]:
    """Return a function that makes the same thing for the same arguments once; no test may change it.

    Its random numbers are its own: what a test draws is the same whether another test came before it or not.
    """

    @functools.cache
    def made(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make(*args, **kwargs)

    return made  # type: ignore[return-value]

"""Any chain of rearrangements between two layers: whatever is cut of it is cut exactly."""

from __future__ import annotations

import math
import warnings

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from leanly.errors import LeanlyWarning, SettingError
from leanly.graph import capture
from leanly.prune import Channels
from tests.prune.surgery import same, scrambled, zeroed


@st.composite
def steps(draw):
    """Draw a width and steps that fit each other, with the shape that comes out (without rows)."""
    shape = [draw(st.sampled_from([8, 12, 16, 24]))]
    width, chain = shape[0], []
    for kind in draw(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=6)):
        step = STEPS[kind][0](draw, shape)
        if step is not None and math.prod(shape) < 1500:
            chain.append((kind, step))
            shape = list(STEPS[kind][1](torch.empty(1, *shape), *step).shape[1:])
    return width, chain, shape


def _split(draw, shape):
    factors = [factor for factor in range(2, math.prod(shape)) if math.prod(shape) % factor == 0]
    return ([draw(st.sampled_from(factors)), -1],) if factors else None


def _axis(draw, shape, least: int = 1):
    axes = [axis for axis, size in enumerate(shape) if size >= least]
    return draw(st.sampled_from(axes)) + 1 if axes else None


def _part(draw, shape):
    axis = _axis(draw, shape, 4)
    if axis is None:
        return None
    start = draw(st.integers(0, shape[axis - 1] // 2))
    return axis, start, draw(st.integers(start + 2, shape[axis - 1])), draw(st.sampled_from([1, 1, 2]))


def _halves(draw, shape):
    axis = _axis(draw, shape, 4)
    return (axis,) if axis is not None and shape[axis - 1] % 2 == 0 else None


def _cut_at(draw, shape):
    axis = _axis(draw, shape, 4)
    return (axis, draw(st.integers(2, shape[axis - 1] - 2))) if axis is not None else None


def _halved(x: Tensor, axis: int) -> Tensor:
    one, other = x.chunk(2, axis)
    return one + 0.5 * other


def _turned(x: Tensor, axis: int, place: int) -> Tensor:
    return torch.cat([x.narrow(axis, place, x.shape[axis] - place), x.narrow(axis, 0, place)], axis)


STEPS = {
    "split": (_split, lambda x, sizes: x.reshape(x.shape[0], *sizes)),
    "merge": (lambda draw, shape: (), lambda x: x.flatten(1)),
    "transpose": (
        lambda draw, shape: (_axis(draw, shape), _axis(draw, shape)),
        lambda x, one, other: x.transpose(one, other),
    ),
    "part": (_part, lambda x, axis, *bounds: x[(slice(None),) * axis + (slice(*bounds),)]),
    "twice": (lambda draw, shape: (_axis(draw, shape),), lambda x, axis: torch.cat([x, 2 * x], axis)),
    "halves": (_halves, _halved),
    "turned": (_cut_at, _turned),
    "flip": (lambda draw, shape: (_axis(draw, shape),), lambda x, axis: x.flip(axis)),
    "roll": (lambda draw, shape: (_axis(draw, shape),), lambda x, axis: x.roll(1, axis)),
    "stack": (lambda draw, shape: (), lambda x: torch.stack([x, 0.3 * x], 1)),
    "expand": (lambda draw, shape: (), lambda x: x[..., None].expand(*x.shape, 3)),
    "pad": (
        lambda draw, shape: (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        lambda x, left, right: functional.pad(x, (left, right)),
    ),
    "shortcut": (lambda draw, shape: (), lambda x: x + torch.relu(x)),
    "sum": (lambda draw, shape: (_axis(draw, shape),) if len(shape) > 1 else None, lambda x, axis: x.sum(axis)),
}


class Chain(nn.Module):
    def __init__(self, width: int, chain: list, shape: list[int]) -> None:
        super().__init__()
        self.chain = chain
        self.enter, self.leave, self.head = nn.Linear(5, width), nn.Linear(math.prod(shape), 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.enter(x)
        for kind, step in self.chain:
            x = STEPS[kind][1](x, *step)
        return self.head(torch.relu(self.leave(x.flatten(1))))


@settings(max_examples=15, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps(), st.sampled_from([{"fraction": 0.3}, {"fraction": 0.5}, {"macs": 0.3}]))
def test_a_chain_of_rearrangements(drawn, asked):
    graph = capture(scrambled(Chain(*drawn)), example=torch.randn(2, 5))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeanlyWarning)  # a roll along what would be cut keeps it whole
            small = Channels(**asked)(graph)
    except SettingError as refused:
        assert "can't be reached" in refused.what
        return
    assert small.kept
    same(small, zeroed(graph, small))

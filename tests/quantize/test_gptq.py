"""GPTQ: on the integers, nearer than the nearest; and the best of all roundings where all can be tried."""

from __future__ import annotations

import itertools

import pytest
import torch

import leanly
from leanly.errors import SettingError
from leanly.quantize import GPTQ, Static, WeightsOnly
from leanly.quantize.affine import from_range
from leanly.quantize.gptq import _rounded
from tests.quantize.networks import error, of_all, off_grid, perceptron, residual


@pytest.mark.parametrize("network", [residual, perceptron, of_all])
def test_outputs_come_nearer_than_by_rounding_to_the_nearest(network):
    graph, task = network()
    nearest = Static(weights=3)(graph, task)
    rounded = GPTQ()(nearest, task)
    assert off_grid(rounded) < 1e-3
    assert error(graph, rounded, task) < 0.8 * error(graph, nearest, task)


@pytest.mark.parametrize("seed", range(5))
def test_two_columns_are_rounded_as_well_as_can_be(seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, 2, generator=generator)
    x = torch.randn(2, 50, generator=generator)
    x[1] = 0.9 * x[0] + 0.2 * x[1]
    affine = from_range(torch.tensor([-2.0]), torch.tensor([2.0]), bits=4, symmetric=True, signed=True, axis=0)
    found = _rounded(weight, affine, (x @ x.T)[None].double(), 1e-6)

    def lost(rounded):
        return float(((weight - rounded) @ x).square().sum())

    integers = affine.quantize(weight)[0]
    near = itertools.product(*(range(int(i) - 2, int(i) + 3) for i in integers))
    best = min(lost(affine.dequantize(torch.tensor([pair]).clamp(affine.low, affine.high))) for pair in near)
    nearest = lost(affine.dequantize(affine.quantize(weight)))
    assert best - 1e-6 <= lost(found) <= nearest + 1e-6


@pytest.mark.parametrize("block", [1, 3, 7])
def test_blocks_of_columns_change_nothing(block, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(5, 9, generator=generator), torch.randn(9, 40, generator=generator)
    x[3] += x[7]
    affine = from_range(weight.amin(1), weight.amax(1), bits=4, symmetric=True, signed=True, axis=0)
    hessian = (x @ x.T)[None].double()
    at_once = _rounded(weight, affine, hessian.clone(), 0.01)
    monkeypatch.setattr("leanly.quantize.gptq.BLOCK", block)
    torch.testing.assert_close(_rounded(weight, affine, hessian, 0.01), at_once)


class Padded(torch.nn.Module):
    """Tokens are read from a table, go through a layer, and only the first two count."""

    def __init__(self):
        super().__init__()
        self.table, self.layer = torch.nn.Embedding(40, 32), torch.nn.Linear(32, 32)
        self.end = torch.nn.Linear(32, 4, bias=False)

    def forward(self, ids):
        return self.end(torch.relu(self.layer(self.table(ids)))[:, :2].mean(1))


def padded(pad):
    """Return the network's graph, rows that are mostly padding, and what it gives for others."""
    torch.manual_seed(0)
    model = Padded().eval()
    ids = torch.randint(20, 40, (200, 12))
    ids[:, 2:] = pad
    task = leanly.Task(model, example=ids[:2], train=(ids[:150], torch.zeros(150)))
    return leanly.capture(model, example=ids[:2]).eval(), task, ids[150:]


def test_what_no_output_follows_from_is_not_weighed():
    outcomes = []
    for pad in (0, 7):
        graph, task, rows = padded(pad)
        found = GPTQ()(WeightsOnly(bits=4, group=32, embeddings=False)(graph, task), task)
        outcomes.append(found.flat(rows)[0])
    torch.testing.assert_close(*outcomes)


def test_tables_are_rounded_by_what_the_outputs_make_of_them():
    graph, task, rows = padded(0)
    nearest = WeightsOnly(bits=4, group=32, embedding_bits=4, float_nodes=("linear", "linear_1"))(graph, task)
    rounded = GPTQ()(nearest, task)
    whole, near, found = (each.flat(rows)[0] for each in (graph, nearest, rounded))
    assert (found - whole).square().sum() < 0.7 * (near - whole).square().sum()


def test_inputs_that_are_never_anything_but_zero_do_no_harm():
    weight, x = torch.randn(3, 4), torch.randn(4, 20)
    x[2] = 0
    affine = from_range(weight.amin(1), weight.amax(1), bits=4, symmetric=True, signed=True, axis=0)
    assert torch.isfinite(_rounded(weight, affine, (x @ x.T)[None].double(), 0.01)).all()


def test_settings_out_of_range_and_float_graphs_are_refused():
    for settings in ({"samples": 0}, {"damping": 0.0}):
        with pytest.raises(SettingError, match=next(iter(settings))):
            GPTQ(**settings)
    graph, task = perceptron()
    with pytest.raises(SettingError, match="no quantized weights"):
        GPTQ()(graph, task)

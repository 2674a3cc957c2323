"""Cluster: layers share values, zeros stay, and a bundle holds which value each weight has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import leanly
from leanly.errors import SettingError
from leanly.prune import Sparse
from leanly.quantize import Cluster, Static
from leanly.quantize.clustering import clustered
from leanly.recipe import Recipe
from leanly.runtimes import open_artifact
from tests.once import once


@once
def graph() -> leanly.Graph:
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 64), nn.ReLU(), nn.Linear(64, 5)]
    return leanly.capture(nn.Sequential(*layers).eval(), example=torch.randn(2, 3, 8, 8)).eval()


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=200), st.integers(2, 20))
@example([1.0, 2.0, 1.5, 1.1754943508222875e-38, -1.0], 4)
@example([-1.0, 1.0, 5.0, 6.0, 7.0], 2)
@settings(max_examples=100)
def test_few_values_the_nearest_ones_and_zeros_stay(values: list[float], count: int) -> None:
    weight = torch.tensor(values)
    found = clustered(weight, count)
    assert not bool(found[weight == 0].any())
    centres = found[weight != 0].unique()  # one may be zero: the mean of a value and its negative is
    assert len(centres) <= count
    for value, shared in zip(weight[weight != 0], found[weight != 0], strict=True):
        assert float((value - shared).abs()) <= float((value - centres).abs().min()) + 1e-6
    assert torch.equal(clustered(found, count), found)


def test_no_value_is_better_elsewhere() -> None:
    torch.manual_seed(0)
    weight = torch.cat([torch.randn(500), 3 + 0.1 * torch.randn(50)])
    found = clustered(weight, 8)
    for centre in found.unique():
        assert float(weight[found == centre].mean()) == pytest.approx(float(centre), abs=1e-4)
    even = torch.linspace(float(weight.min()), float(weight.max()), 8)
    rounded = even[(weight[:, None] - even).abs().argmin(1)]
    assert float((found - weight).square().mean()) < 0.7 * float((rounded - weight).square().mean())


def test_layers_have_values_of_their_own_and_dense_ones_keep_theirs() -> None:
    whole = graph()
    shared = Cluster(count=8, dense=("linear_1",))(whole)
    state, before = shared.state_dict(), whole.state_dict()
    for name in ("0.weight", "3.weight"):
        assert len(state[name].unique()) == 8 and not torch.equal(state[name], before[name])
    assert torch.equal(state["5.weight"], before["5.weight"]) and torch.equal(state["0.bias"], before["0.bias"])


def test_a_bundle_holds_about_the_bits_that_tell_the_values_apart(tmp_path: Path) -> None:
    sparse = Recipe((Sparse(sparsity=0.9), Cluster(count=4)))(graph())
    artifact = leanly.lower(sparse, runtime="onnxruntime", to=tmp_path / "a")
    weights = sum(tensor.numel() for name, tensor in sparse.state_dict().items() if "weight" in name)
    # 0.47 bits say which are zero, two more for each of the others; without: 32
    assert artifact.payload_bytes < weights * (0.47 + 0.2) / 8 + 4 * 85 + 400
    x = torch.randn(3, 3, 8, 8)
    found = torch.from_numpy(open_artifact(artifact)(x.numpy()))
    torch.testing.assert_close(found, sparse(x).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 257, 2.5, True])
def test_counts_out_of_range_are_refused(count: object) -> None:
    with pytest.raises(SettingError, match="count"):
        Cluster(count=count)  # type: ignore[arg-type]


def test_unknown_layers_are_refused_and_so_is_nothing_to_do() -> None:
    with pytest.raises(SettingError, match="dense names 'liner', which is no node"):
        Cluster(dense=("liner",))(graph())
    with pytest.raises(SettingError, match="no weight to work on"):
        Cluster(dense=("conv2d", "linear", "linear_1"))(graph())


def test_weights_that_are_quantized_already_are_said_to_be() -> None:
    x = torch.randn(8, 3, 8, 8)
    whole = graph()
    quantized = Static()(whole, leanly.Task(whole, example=x[:2], train=(x, torch.arange(8) % 5)))
    with pytest.raises(SettingError, match=r"quantized already.*put Cluster before that"):
        Cluster()(quantized)


def test_it_stands_in_recipes() -> None:
    recipe = Recipe((Cluster(count=8, dense=("linear",)),))
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_an_outlier_and_zeros_do_not_waste_values(share: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    weight[weight.abs() < weight.abs().quantile(1 - share)] = 0
    weight[0, 0] = 60.0
    found = clustered(weight, 16)
    # sixteen values take a hundredth of the variance of normal numbers that are left, and the outlier one of them
    assert len(found[found != 0].unique()) > 12
    assert float((found - weight).square().sum()) < 0.015 * float(weight[weight != 60].square().sum())

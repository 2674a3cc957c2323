"""Settings of the wrong type are refused when they are given, in a sentence that names them."""

import numpy as np
import pytest
import torch
from torch import nn

import leanly
from leanly.errors import SettingError
from leanly.prune import Sparse
from leanly.quantize import Binary, Cluster, Equalize, Mixed, Reconstruct, Smooth, Static, WeightsOnly
from leanly.quantize.affine import fixed_point, from_range


@pytest.mark.parametrize(
    ("asked", "settings", "said"),
    [
        (Static, {"symmetric": "no"}, "symmetric is 'no'.*give True or False"),
        (Static, {"end_bits": None}, "end_bits=None.*use 2 to 8"),
        (Binary, {"activations": True}, "activations=True.*use 1"),
        (Static, {"float_nodes": None}, "float_nodes is None.*a tuple of names"),
        (Mixed, {"choices": 4}, "choices=4.*two or more"),
        (Mixed, {"choices": (2, "a")}, "choices=.*two or more"),
        (Mixed, {"choices": (4, 4)}, "choices=.*two or more"),
        (Mixed, {"static": None}, "static is None.*quantize.Static"),
        (WeightsOnly, {"bits": 4.0}, "bits is 4.0"),
        (WeightsOnly, {"group": 32.0}, "group is 32.0"),
        (WeightsOnly, {"embeddings": 1}, "embeddings is 1.*True or False"),
        (Binary, {"float_nodes": "conv2d"}, r"float_nodes is 'conv2d'.*\('conv2d',\)"),
        (Cluster, {"dense": None}, "dense is None.*a tuple of names"),
        (Sparse, {"sparsity": 0.5, "dense": "linear"}, r"dense is 'linear'.*\('linear',\)"),
        (Reconstruct, {"progress": 3}, "progress is 3.*a function"),
        (Reconstruct, {"steps": 1}, "steps is 1.*True or False"),
    ],
)
def test_refused_when_given(asked, settings, said):
    with pytest.raises(SettingError, match=said):
        asked(**settings)


@pytest.mark.parametrize("ends", [(float("nan"), 1.0), (-1.0, float("inf"))])
def test_a_range_without_an_end_has_no_integers(ends):
    low, high = (torch.tensor(end) for end in ends)
    with pytest.raises(SettingError, match="NaN or infinity"):
        from_range(low, high, bits=8, symmetric=False, signed=True)


def test_a_range_may_be_given_in_plain_numbers():
    assert from_range(-1.0, 0.5, bits=8, symmetric=True, signed=True).high == 127


@pytest.mark.parametrize(("value", "bits"), [(1e30, 8), (float("nan"), 8), (-float("inf"), 0), (2.0**55, 8)])
def test_fixed_point_refuses_what_its_integers_cant_hold(value, bits):
    with pytest.raises(SettingError, match=r"2\*\*"):
        fixed_point(np.array([0.5, value]), bits)


def test_fixed_point_takes_whole_bits():
    with pytest.raises(SettingError, match=r"bits is 2\.5"):
        fixed_point(np.ones(2), 2.5)  # type: ignore[arg-type]
    assert fixed_point(np.array([-1.5, 2.0**54]), 8).tolist() == [-384, 2**62]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("step", [Static(), Mixed(), WeightsOnly(group=16), Smooth(), Equalize(), Binary()])
def test_layers_without_weights_are_named(step):
    x = torch.randn(20, 12)
    model = nn.Sequential(nn.Linear(12, 0), nn.ReLU(), nn.Linear(0, 3)).eval()
    with pytest.raises(SettingError, match=r"weight of shape \(0, 12\) holds no weights"):
        step(leanly.capture(model, example=x[:2]), leanly.Task(model, example=x[:2], train=(x, torch.arange(20) % 3)))

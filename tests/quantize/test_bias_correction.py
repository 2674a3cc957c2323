"""CorrectBias: after it no layer's output is shifted on the rows that corrected it."""

from __future__ import annotations

import pytest
import torch

from leanly.errors import SettingError
from leanly.quantize import CorrectBias, Static
from tests.quantize.networks import error, inputs_of, of_all, perceptron, residual


@pytest.mark.parametrize("network", [residual, perceptron])
def test_the_mean_of_every_output_is_the_float_one(network):
    graph, task = network()
    rough = Static(weights=2, activations=8)(graph, task)
    corrected = CorrectBias()(rough, task)
    x = inputs_of(task)
    with torch.no_grad():
        wanted, before, after = (g(x).mean(0) for g in (graph, rough, corrected))
    assert (before - wanted).abs().max() > 1e-2
    torch.testing.assert_close(after, wanted, atol=1e-4, rtol=1e-4)
    assert error(graph, corrected, task) < error(graph, rough, task)


def test_an_image_without_a_batch_has_channels_too():
    graph, task = of_all()
    rough = Static(weights=2, activations=8)(graph, task)
    assert error(graph, CorrectBias()(rough, task), task) < error(graph, rough, task)


def test_a_layer_without_a_bias_is_given_one_and_the_input_stays():
    graph, task = perceptron()
    rough = Static(weights=2)(graph, task)
    before = rough.fingerprint()
    corrected = CorrectBias()(rough, task)
    assert len(list(corrected.parameters())) == len(list(rough.parameters())) + 1
    assert rough.fingerprint() == before


def test_settings_out_of_range_and_float_graphs_are_refused():
    with pytest.raises(SettingError, match="samples"):
        CorrectBias(samples=0)
    graph, task = perceptron()
    with pytest.raises(SettingError, match="no quantized weights"):
        CorrectBias()(graph, task)

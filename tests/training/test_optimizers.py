import pytest
import torch
from torch import nn

import leanly
from leanly.graph import capture
from leanly.graph.attention import expand_attention
from leanly.quantize import LearnSteps, Static
from leanly.training import Settings
from leanly.training.optimizers import make_optimizer
from tests.training.models import Net


@pytest.mark.parametrize(("name", "rate", "decay"), [("sgd", 0.1, 5e-4), ("adamw", 1e-3, 1e-2)])
def test_norms_and_biases_do_not_decay(name, rate, decay):
    graph = capture(Net(), example=torch.randn(2, 2, 8, 8))
    optimizer = make_optimizer(graph, Settings(optimizer=name))
    of = {id(parameter): label for label, parameter in graph.named_parameters()}
    decays = {of[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    weights = {"conv.weight", "head.weight"}
    assert decays == {label: decay if label in weights else 0.0 for label in of.values()}
    assert {group["lr"] for group in optimizer.param_groups} == {rate}
    assert make_optimizer(graph, Settings(optimizer=name, weight_decay=0.2)).param_groups[0]["weight_decay"] == 0.2


def test_attention_is_trained_more_gently():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    graph = capture(layer, example=torch.randn(2, 5, 8))
    for one in (graph, expand_attention(graph)):
        assert make_optimizer(one, Settings()).param_groups[0]["lr"] == 1e-4
    assert make_optimizer(graph, Settings(learning_rate=1e-3)).param_groups[0]["lr"] == 1e-3


def test_steps_of_quantizers_move_by_a_small_share_of_themselves():
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(32, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(32) % 3))
    graph = LearnSteps()(Static(weights=4, activations=4)(capture(model, example=x[:2]), task))
    optimizer = make_optimizer(graph, Settings(learning_rate=1e-3))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in graph.named_parameters():
        wanted = 1e-4 * float(parameter.detach().abs().mean()) if name.startswith("quantizers.") else 1e-3
        assert rates[id(parameter)] == pytest.approx(wanted), name

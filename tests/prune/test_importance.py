"""Criteria, against what they are by hand."""

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, SettingError
from leanly.graph import capture
from leanly.prune import Channels, fisher, gradient, magnitude
from leanly.prune.importance import CRITERIA
from tests.prune.surgery import scrambled


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3))


def test_magnitude_is_the_square_of_each_weight():
    model = scrambled(network())
    found = magnitude(capture(model, example=torch.randn(2, 4)))
    assert set(found) == {"0.weight", "4.weight"}
    torch.testing.assert_close(found["0.weight"], model[0].weight.detach() ** 2)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_gradient_is_weight_times_slope_the_mean_over_rows(split: str):
    model = scrambled(network())
    x, y = torch.randn(50, 4), torch.randint(0, 3, (50,))
    graph = capture(model, example=x[:2]).train()
    before = graph.fingerprint()
    found = gradient(graph, leanly.Task(model, example=x[:2], **{split: (x, y)}))
    expected = torch.zeros(6, 4)
    for rows in (slice(0, 32), slice(32, 50)):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        expected += (model[0].weight * model[0].weight.grad).abs().detach() * len(y[rows]) / len(y)
    torch.testing.assert_close(found["0.weight"].float(), expected, rtol=1e-4, atol=1e-6)
    assert set(found) == {name for name, _ in graph.named_parameters()}
    assert graph.fingerprint() == before and graph.training
    assert all(parameter.grad is None for parameter in graph.parameters())


def test_gradient_reads_no_more_rows_than_it_says():
    model = scrambled(network())
    x, y = torch.randn(600, 4), torch.randint(0, 3, (600,))
    graph = capture(model, example=x[:2])
    few = gradient(graph, leanly.Task(model, example=x[:2], train=(x[:512], y[:512])))
    more = gradient(graph, leanly.Task(model, example=x[:2], train=(x, y)))
    assert torch.equal(few["0.weight"], more["0.weight"])


def test_frozen_weights_are_judged_too():
    model = scrambled(network())
    model[0].weight.requires_grad_(False)
    x, y = torch.randn(20, 4), torch.randint(0, 3, (20,))
    graph = capture(model, example=x[:2])
    assert gradient(graph, leanly.Task(model, example=x[:2], train=(x, y)))["0.weight"].sum() > 0
    assert not graph.module.get_parameter("0.weight").requires_grad


def test_labels_that_do_not_fit_the_loss():
    model = scrambled(network())
    x = torch.randn(8, 4)
    task = leanly.Task(
        model, example=x[:2], train=(x, torch.zeros(8, 7, dtype=torch.long)), metric=lambda found, wanted: 0.0
    )
    with pytest.raises(DataError, match="the loss can't be computed"):
        gradient(capture(model, example=x[:2]), task)


def test_a_loss_that_is_not_finite():
    model = scrambled(network())
    x, y = torch.randn(8, 4), torch.zeros(8, dtype=torch.long)
    task = leanly.Task(model, example=x[:2], train=(x, y), loss=lambda found, wanted: found.sum() * float("nan"))
    with pytest.raises(DataError, match="the loss is tensor"):
        gradient(capture(model, example=x[:2]), task)
    task = leanly.Task(model, example=x[:2], train=(x, y), loss=lambda found, wanted: found[:, 0])
    with pytest.raises(DataError, match=r"the loss has the shape \(8,\)"):
        gradient(capture(model, example=x[:2]), task)


@pytest.mark.parametrize("criterion", [gradient, fisher])
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_slopes_are_taken_wherever_the_call_stands(criterion, around):
    model = scrambled(network())
    x, y = torch.randn(50, 4), torch.randint(0, 3, (50,))
    graph = capture(model, example=x[:2])
    task = leanly.Task(model.eval(), example=x[:2], train=(x, y))
    expected = criterion(graph, task)
    with around():
        found = criterion(graph, task)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], saliency) for name, saliency in expected.items())


def test_a_network_whose_products_are_no_layers_is_told_of():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(4, 3, batch_first=True)

        def forward(self, x):
            return self.cell(x)[0][:, -1]

    model, x = Bare().eval(), torch.randn(8, 5, 4)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(8) % 3))
    with pytest.raises(SettingError, match="nothing in this network that it can judge"):
        Channels(fraction=0.5, importance=fisher)(capture(model, example=x[:2]), task)


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_are_not_taken_for_classes_where_no_loss_was_given(outputs):
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, outputs)).eval(), torch.randn(8, 4)
    task = leanly.Task(model, example=x[:2], train=(x, torch.randn(8, outputs)), metric="mse")
    with pytest.raises(DataError, match="give the loss that the model was trained with"):
        gradient(capture(model, example=x[:2]), task)


def test_an_importance_takes_a_graph_and_a_task():
    with pytest.raises(SettingError, match="can't be called with a graph and a task"):
        Channels(fraction=0.5, importance=lambda graph: {})
    with pytest.raises(SettingError, match="importance is a dict, which can't be called"):
        Channels(fraction=0.5, importance={"weight": torch.ones(3)})
    Channels(fraction=0.5, importance=lambda graph, task=None: {})


class TwoBranches(nn.Module):
    """Two residual branches alike in shape, of which one hardly does anything."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(20, 32), nn.Linear(32, 5)
        self.dead, self.dead_out = nn.Linear(32, 64), nn.Linear(64, 32)
        self.live, self.live_out = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        x = self.first(x)
        x = x + self.dead_out(torch.relu(self.dead(x)))
        x = x + self.live_out(torch.relu(self.live(x)))
        return self.last(x)


@pytest.mark.parametrize("criterion", [gradient, fisher])
def test_what_the_loss_hangs_on_is_spared_before_what_it_does_not(criterion):
    torch.manual_seed(0)
    model = TwoBranches().eval()
    with torch.no_grad():
        model.live_out.weight.mul_(4)
        model.dead_out.weight.mul_(1e-3)
        model.dead_out.bias.zero_()
    x = torch.randn(512, 20)
    y = model(x).detach().argmax(1)
    graph = capture(model, example=x[:2])
    task = leanly.Task(model, example=x[:2], train=(x, y))
    small = Channels(macs=0.3, importance=criterion)(graph, task)
    widths = {name: weight.shape[0] for name, weight in small.named_parameters() if weight.ndim > 1}
    assert widths["dead.weight"] < 40 and widths["live.weight"] > 60
    assert float((small(x).argmax(1) == y).float().mean()) > 0.98


@pytest.mark.parametrize("name", CRITERIA)
def test_a_module_in_place_of_a_graph_is_refused_by_every_criterion(name: str):
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(8, 4)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(8) % 3))
    with pytest.raises(SettingError, match=r"a Sequential was given where a Graph is needed.*capture"):
        CRITERIA[name](model, task)


def test_slopes_and_saliencies_that_are_no_numbers_are_refused_for_what_they_are():
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6, bias=False), nn.Linear(6, 3)

        def forward(self, x):
            return self.two(torch.sqrt(self.one(x).square()))

    model, x = Root().eval(), torch.randn(8, 4)
    x[3] = 0
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(8) % 3))
    graph = capture(model, example=x[:2])
    with pytest.raises(DataError, match=r"the slope of one.weight is NaN or infinite.*a root of 0"):
        gradient(graph, task)
    with pytest.raises(SettingError, match="its saliency is complex"):
        Channels(fraction=0.5, importance=lambda graph, task: {"one.weight": torch.ones(6, 4) * 1j})(graph)

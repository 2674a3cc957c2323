import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from leanly.graph import capture
from tests.graph.models import Normalized, close


def test_train_and_eval_switch_batch_norm_and_dropout():
    model = Normalized().eval()
    graph = capture(model, example=torch.randn(2, 3, 8, 8))
    x = torch.randn(4, 3, 8, 8)
    close(graph(x), model(x))
    graph.train()
    assert graph.training and not torch.equal(graph(x), graph(x))
    graph.eval()
    assert torch.equal(graph(x), graph(x))


def test_one_training_step_equals_the_modules():
    model = Normalized(p=0.0).train()
    graph = capture(model, example=torch.randn(4, 3, 8, 8))
    assert graph.training
    x, y = torch.randn(6, 3, 8, 8), torch.randint(0, 5, (6,))
    for step in (model, graph):
        optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
        functional.cross_entropy(step(x), y).backward()
        optimizer.step()
    state = graph.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            close(state[name], tensor)
    close(graph.eval()(x), model.eval()(x))


def test_dropout_draws_what_the_module_draws():
    model = Normalized().train()
    graph = capture(model, example=torch.randn(4, 3, 8, 8))
    x = torch.randn(6, 3, 8, 8)
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    close(graph(x), expected)


def test_state_dict_goes_back_into_the_users_module():
    model = Normalized().eval()
    graph = capture(model, example=torch.randn(2, 3, 8, 8))
    assert list(graph.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        next(graph.parameters()).add_(1)
    model.load_state_dict(graph.state_dict())
    x = torch.randn(3, 3, 8, 8)
    close(graph(x), model(x))


def test_a_frozen_batch_norm_of_a_training_model_stays_frozen():
    model = Normalized(p=0.0).train()
    model.norm.eval()
    graph = capture(model, example=torch.randn(4, 3, 8, 8))
    x = torch.randn(4, 3, 8, 8)
    close(graph(x), model(x))
    assert torch.equal(graph.state_dict()["norm.running_mean"], torch.zeros(8))


def test_batch_norm_without_statistics_uses_the_batch_in_both_modes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    graph = capture(model, example=torch.randn(2, 3, 8, 8))
    x = torch.randn(5, 3, 8, 8)
    close(graph(x), model(x))


@pytest.mark.parametrize("kind", ["dropout2d", "alpha", "inplace", "attention", "lstm", "instance"])
def test_every_kind_of_flag_is_off_in_evaluation_and_on_in_training(kind: str):
    class Attention(nn.Module):
        def forward(self, x):
            p = 0.5 if self.training else 0.0
            return functional.scaled_dot_product_attention(x, x, x, dropout_p=p)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 4, num_layers=2, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.rnn(x[:, 0])[0]

    model = {
        "dropout2d": nn.Dropout2d(),
        "alpha": nn.AlphaDropout(),
        "inplace": nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(inplace=True)),
        "attention": Attention(),
        "lstm": Last(),
        "instance": nn.InstanceNorm2d(3, track_running_stats=True, affine=True),
    }[kind].eval()
    graph = capture(model, example=torch.randn(2, 3, 4, 4))
    x = torch.randn(3, 3, 4, 4)
    close(graph(x), model(x))
    model.train()
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    assert not graph.notes
    close(graph.train()(x), expected)
    if kind not in ("instance",):
        assert not torch.equal(graph(x), graph(x))


def test_outputs_of_another_structure_in_training_are_captured_as_in_evaluation():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head, self.side = nn.BatchNorm1d(4), nn.Linear(4, 2), nn.Linear(4, 2)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            x = self.drop(self.norm(x))
            return (self.head(x), self.side(x)) if self.training else self.head(x)

    model = Auxiliary().eval()
    graph = capture(model, example=torch.randn(4, 4))
    x = torch.randn(5, 4)
    close(graph(x), model(x))
    assert len(graph.notes) == 1 and "another structure" in graph.notes[0]
    graph.train()
    assert not torch.equal(graph(x), graph(x))
    assert not torch.equal(graph.state_dict()["norm.running_mean"], torch.zeros(4))
    assert set(graph.state_dict()) == set(model.state_dict())


@pytest.mark.parametrize("draw", [torch.bernoulli, torch.Tensor.bernoulli_])
def test_stochastic_depth_is_captured_as_in_evaluation(draw):
    class Depth(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            if self.training:
                return x + 1e-9 * self.layer(x) * draw(x.new_full((x.shape[0], 1), 0.5)) / 0.5
            return x + 1e-9 * self.layer(x)

    model = Depth().eval()
    graph = capture(model, example=torch.randn(4, 4))
    x = torch.randn(5, 4)
    close(graph(x), model(x))
    assert graph.notes
    assert not any("bernoulli" in str(node.target) for node in graph.module.graph.nodes)


def test_gradients_stop_where_the_module_stops_them():
    class Stopped(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            with torch.no_grad():
                weight = self.one(x).softmax(-1)
            return self.two(x) * weight

    model = Stopped()
    graph = capture(model, example=torch.randn(4, 4))
    twin = copy.deepcopy(model)
    x = torch.randn(3, 4)
    graph(x).sum().backward()
    twin(x).sum().backward()
    found = dict(graph.named_parameters())
    assert found["one.weight"].grad is None and twin.one.weight.grad is None
    close(found["two.weight"].grad, twin.two.weight.grad)


class Twice(nn.Module):
    """Calls one batch norm at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


def test_evaluation_changes_nothing_where_a_norm_is_called_twice():
    graph = capture(Twice().eval(), example=torch.randn(2, 1, 6, 6))
    before, counter = graph.fingerprint(), int(graph.state_dict()["norm.num_batches_tracked"])
    graph(torch.randn(3, 1, 6, 6))
    assert graph.fingerprint() == before and int(graph.state_dict()["norm.num_batches_tracked"]) == counter
    mean = graph.state_dict()["norm.running_mean"].clone()
    graph.train()(torch.randn(3, 1, 6, 6))
    assert not torch.equal(graph.state_dict()["norm.running_mean"], mean)

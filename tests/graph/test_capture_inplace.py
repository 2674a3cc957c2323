import copy

import pytest
import torch
from torch import nn

from leanly.errors import CaptureError
from leanly.graph import capture
from tests.graph.models import close


def _relu(x):
    y = x * 2
    y.relu_()
    return y + x


def _add(x):
    y = x * 2
    y += x
    y.add_(1).mul_(3)
    return y


def _column(x):
    y = x * 2
    y[:, 0] = x[:, 1]
    return y


def _constant(x):
    y = x * 2
    y[:, 1:3] = 7.0
    y[:, 0, ::2] = 0
    return y


def _view(x):
    y = x * 2
    flat = y.view(x.shape[0], -1)
    row = y[:, 1]
    flat.add_(1)
    return y, row, flat.sum(1)


def _chain(x):
    y = x * 2
    part = y.transpose(1, 2)[:, 1:].permute(0, 2, 1).unsqueeze(1).squeeze(1)
    other = y[:, 2]
    part.mul_(-1)
    other.add_(5)
    return y, part, other


def _copy(x):
    y = torch.zeros_like(x)
    y.copy_(x[:, :1])
    y[:, 2].copy_(x[:, 0])
    return y


def _split(x):
    y = x * 2
    one, two = y.chunk(2, dim=1)
    two.add_(one)
    first, *_ = y.unbind(1)
    first.zero_()
    return y, one, two


def _index(x):
    y = x * 2
    y[:, [0, 2]] = 1.5
    y[y > 1] = 0.25
    return y.masked_fill_(x < 0, -1)


def _dtype(x):
    y = x * 2
    y.add_(x.double())
    y.fill_diagonal_(1.0) if y.ndim == 2 else None
    return y


def _narrow(x):
    y = x * 2
    y.narrow(1, 1, 2).sub_(4)
    y.diagonal(0, 1, 2).fill_(9)
    y.clamp_(min=-1)
    return y


def _input(x):
    x.add_(1)
    return x * 2


def _again(x):
    y = x * 2
    a = y[:, 0]
    b = y[:, 0]
    a.add_(1)
    b.add_(2)
    a.add_(3)
    return y + a.unsqueeze(1), b


@pytest.mark.parametrize(
    "function",
    [_relu, _add, _column, _constant, _view, _chain, _copy, _index, _dtype, _narrow, _input, _again],
)
def test_a_write_is_seen_by_every_later_reader(function):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, x):
            return function(self.layer(x))

    model = Writes().eval()
    graph = capture(model, example=torch.randn(2, 4, 5))
    assert not graph.notes
    assert not any(
        node.target._schema.is_mutable for node in graph.module.graph.nodes if hasattr(node.target, "_schema")
    )
    x = torch.randn(3, 4, 5)
    found, expected = graph(x), model(x)
    for one, other in zip(*(item if isinstance(item, tuple) else (item,) for item in (found, expected)), strict=True):
        close(one, other)
    sum(item.sum() for item in (found if isinstance(found, tuple) else (found,))).backward()
    sum(item.sum() for item in (expected if isinstance(expected, tuple) else (expected,))).backward()
    close(dict(graph.named_parameters())["layer.weight"].grad, model.layer.weight.grad)


def test_a_write_into_one_of_several_views():
    class Writes(nn.Module):
        def forward(self, x):
            return _split(x)

    # PyTorch refuses this where a gradient is needed
    graph = capture(Writes().eval(), example=torch.randn(2, 4, 5))
    x = torch.randn(3, 4, 5)
    for one, other in zip(graph(x), _split(x), strict=True):
        close(one, other)


def test_a_write_into_the_input_leaves_the_callers_tensor_alone():
    class Writes(nn.Module):
        def forward(self, x):
            return x.add_(1) * 2

    graph = capture(Writes().eval(), example=torch.zeros(2, 3))
    x = torch.zeros(2, 3)
    close(graph(x), torch.full((2, 3), 2.0))
    assert torch.equal(x, torch.zeros(2, 3))


def test_what_is_kept_in_a_buffer_is_kept_in_the_graph():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            self.total.mul_(0.5)
            self.total += x.sum(0)
            return x + self.total

    model = Counts().eval()
    graph = capture(copy.deepcopy(model), example=torch.randn(2, 3))
    assert torch.equal(graph.state_dict()["total"], torch.zeros(3))
    for _ in range(3):
        x = torch.randn(4, 3)
        close(graph(x), model(x))
    close(graph.state_dict()["total"], model.total)


def test_a_view_that_cannot_be_written_through_names_the_line():
    class Writes(nn.Module):
        def forward(self, x):
            y = x * 2
            torch.view_as_complex(y.view(-1, 2, 2)).mul_(2)
            return y

    with pytest.raises(CaptureError, match=r"test_capture_inplace\.py:\d+: torch\.view_as_complex"):
        capture(Writes().eval(), example=torch.randn(2, 4))

import pytest
import torch
from torch import nn
from torch.nn import functional

from leanly.graph import Graph, capture, quantizer, tensors


class Runs(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.function = function

    def forward(self, *inputs):
        return self.function(*self.layers, *inputs)


CONV = torch.randn(2, 8, 16, 16)
CASES = {
    # out channels 12, 16 x 16 positions, 3 x 3 window over 8 channels
    "conv": (nn.Conv2d(8, 12, 3, padding=1), CONV, 12 * 16 * 16 * 9 * 8, 12 * 8 * 9 + 12),
    # each output sees 8 / 4 channels
    "groups": (nn.Conv2d(8, 12, 3, padding=1, groups=4), CONV, 12 * 16 * 16 * 9 * 2, 12 * 2 * 9 + 12),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), CONV, 8 * 16 * 16 * 9, 8 * 9),
    # stride 2: 8 x 8 positions
    "stride": (nn.Conv2d(8, 12, 3, padding=1, stride=2), CONV, 12 * 8 * 8 * 9 * 8, 12 * 8 * 9 + 12),
    # dilation 3 without padding: 16 - 6 = 10 positions each way
    "dilation": (nn.Conv2d(8, 12, 3, dilation=3), CONV, 12 * 10 * 10 * 9 * 8, 12 * 8 * 9 + 12),
    "same": (nn.Conv2d(8, 12, 5, padding="same"), CONV, 12 * 16 * 16 * 25 * 8, 12 * 8 * 25 + 12),
    # every one of 8 x 16 x 16 inputs meets 3 x 3 x (12 / 2) weights
    "transposed": (nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2), CONV, 8 * 16 * 16 * 9 * 6, 8 * 6 * 9 + 12),
    "conv1d": (nn.Conv1d(4, 6, 5), torch.randn(2, 4, 20), 6 * 16 * 5 * 4, 6 * 4 * 5 + 6),
    "linear": (nn.Linear(10, 7), torch.randn(2, 5, 10), 5 * 10 * 7, 77),
    # one layer, two directions, 6 steps: 4 gates of 5 from 3 inputs and 5 states
    "lstm": (
        Runs(lambda rnn, x: rnn(x)[0], nn.LSTM(3, 5, bidirectional=True, batch_first=True)),
        torch.randn(2, 6, 3),
        6 * 2 * 4 * 5 * (3 + 5),
        2 * (4 * 5 * (3 + 5) + 2 * 20),
    ),
    # the second layer reads 5 states; projection to 2 would change it
    "lstm of two layers": (
        Runs(lambda rnn, x: rnn(x)[0], nn.LSTM(3, 5, num_layers=2, batch_first=True)),
        torch.randn(2, 6, 3),
        6 * (4 * 5 * (3 + 5) + 4 * 5 * (5 + 5)),
        4 * 5 * (3 + 5) + 4 * 5 * (5 + 5) + 2 * 40,
    ),
    "gru": (
        Runs(lambda rnn, x: rnn(x)[0], nn.GRU(3, 5, batch_first=True)),
        torch.randn(2, 6, 3),
        6 * 3 * 5 * (3 + 5),
        3 * 5 * (3 + 5) + 2 * 15,
    ),
    # 2 heads of width 4, 7 queries on 7 keys: scores and mix
    "attention": (
        Runs(lambda x: functional.scaled_dot_product_attention(x, x, x)),
        torch.randn(2, 2, 7, 4),
        2 * (7 * 7 * 4 + 7 * 7 * 4),
        0,
    ),
    # projections in (8 to 24) and out (8 to 8), and 2 heads of 4 on 7 tokens
    "multihead attention": (
        Runs(lambda layer, x: layer(x, x, x, need_weights=False)[0], nn.MultiheadAttention(8, 2, batch_first=True)),
        torch.randn(2, 7, 8),
        7 * 8 * 24 + 7 * 8 * 8 + 2 * (7 * 7 * 4) * 2,
        8 * 24 + 24 + 8 * 8 + 8,
    ),
    "matmul": (Runs(lambda x: x @ x.transpose(1, 2)), torch.randn(2, 5, 6), 5 * 5 * 6, 0),
    "einsum": (Runs(lambda x: torch.einsum("bij,bkj->bik", x, x)), torch.randn(2, 5, 6), 5 * 5 * 6, 0),
    "norm and activation": (nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), CONV, 0, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_macs_and_parameters_by_hand(name: str):
    model, example, macs, parameters = CASES[name]
    graph = capture(model.eval(), example=example)
    for batch in (1, 3):
        cost = graph.cost(batch)
        assert (cost.macs, cost.parameters, cost.parameter_bytes) == (batch * macs, parameters, 4 * parameters)


def test_each_node_has_its_share_shape_and_line():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    cost = capture(model, example=torch.randn(2, 3, 8, 8)).cost(5)
    conv, relu, _, linear = cost.nodes
    assert (conv.operator, conv.output_shape, conv.macs) == ("aten.conv2d.default", (5, 4, 6, 6), 5 * 4 * 36 * 27)
    assert (conv.parameters, relu.parameters, linear.parameters) == (112, 0, 290)
    assert relu.activation_bytes == 5 * 4 * 36 * 4 and linear.output_shape == (5, 2)
    assert cost.macs == sum(node.macs for node in cost.nodes) and all(node.source for node in cost.nodes)


def test_a_shared_parameter_counts_once_and_bytes_follow_the_dtype():
    layer = nn.Linear(6, 6, bias=False).to(torch.float64)
    graph = capture(Runs(lambda one, two, x: two(one(x)), layer, layer).eval(), example=torch.randn(2, 6).double())
    cost = graph.cost()
    assert (cost.parameters, cost.parameter_bytes, cost.macs) == (36, 36 * 8, 2 * 36)


def test_counting_changes_nothing():
    graph = capture(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train(), example=torch.randn(4, 4))
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    graph.cost(8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
    assert graph.shapes(8)["linear"] == (8, 4)


def test_weights_stored_as_integers_count_their_stored_bytes_and_survive_saving(tmp_path):
    graph = capture(nn.Linear(6, 4, bias=False).eval(), example=torch.randn(2, 6))
    module = graph.module
    linear = next(node for node in module.graph.nodes if str(node.target) == "aten.linear.default")
    for name, tensor in (
        ("integers", torch.randint(-127, 128, (4, 6), dtype=torch.int8)),
        ("scale", torch.full((4,), 100.0)),
        ("shift", torch.zeros(4)),
    ):
        tensors.put(module, name, tensor)
    with module.graph.inserting_before(linear):
        read = [module.graph.get_attr(name) for name in ("integers", "scale", "shift")]
        linear.args = (linear.args[0], module.graph.call_function(quantizer.dequantize._opoverload, (*read, 0)))
    module.graph.eliminate_dead_code()
    module.recompile()
    cost = graph.cost()
    assert (cost.macs, cost.parameters, cost.parameter_bytes) == (24, 24, 24)
    graph.save(tmp_path / "graph")
    again = Graph.open(tmp_path / "graph")
    x = torch.randn(3, 6)
    assert torch.equal(again(x), graph(x)) and again.fingerprint() == graph.fingerprint()

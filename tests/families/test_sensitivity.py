from __future__ import annotations

import torch
from torch import nn

from leanly.families.sensitivity import layer_bits, layer_errors, metric_drops, only_quantized
from leanly.graph import capture
from leanly.quantize import Static, WeightsOnly
from leanly.quantize.static import prepare
from leanly.task import Task


class Net(nn.Module):
    """The second layer's weights span four orders of magnitude inside each row: 8 bits can't hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(16, 16) for _ in range(3))
        with torch.no_grad():
            self.second.weight[:, 0] *= 2e4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.second(x * torch.tensor([0.0] + [1.0] * 15)))
        return self.third(x)


def test_the_layer_that_suffers_is_named() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 16), torch.randint(0, 16, (32,))
    task = Task(Net().eval(), example=(x[:2],), train=(x, y), validation=(x, y))
    graph = capture(task.model, example=task.example).eval()
    static = Static(kernels="onnxruntime")
    errors = layer_errors(prepare(graph, static.attention), static(graph, task), [x])
    worst = max(errors, key=lambda name: errors[name])
    order = [node.name for node in graph.module.graph.nodes if str(node.target) == "aten.linear.default"]
    assert list(errors) == order and worst == order[1]
    assert errors[order[1]] > 20 * max(errors[order[0]], errors[order[2]])


def test_one_layer_alone_is_quantized_and_the_one_that_suffers_loses_most() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(256, 16)
    task = Task(model, example=(x[:2],), train=(x, model(x).argmax(1)), validation=(x, model(x).argmax(1)))
    graph = capture(task.model, example=task.example).eval()
    quantized = Static(kernels="onnxruntime")(graph, task)
    layers = [node.name for node in graph.module.graph.nodes if str(node.target) == "aten.linear.default"]
    with torch.no_grad():
        assert torch.equal(only_quantized(quantized, "")(x), graph(x))
        for layer in layers:
            assert not torch.equal(only_quantized(quantized, layer)(x), graph(x))
    drops = list(metric_drops(quantized, layers, task, 256))
    assert drops[1] == max(drops) > 0.1 and abs(drops[0]) < 0.05 and abs(drops[2]) < 0.05


def test_the_bits_of_a_layer_are_those_of_its_weights_and_of_what_they_multiply() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 32), torch.randint(0, 8, (32,))
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    task = Task(model, example=(x[:2],), train=(x, y))
    graph = capture(task.model, example=task.example).eval()
    few = Static(activations=5, weight_bits=(("linear", 2),), layer_bits=(("linear_1", 4),), float_nodes=("linear_2",))
    assert layer_bits(few(graph, task)) == {"linear": "W2A5", "linear_1": "W4A4"}
    assert set(layer_bits(WeightsOnly(bits=4)(graph)).values()) == {"W4"}


def test_an_embedding_alone_can_be_quantized() -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 40, (16, 6))
    model = nn.Sequential(nn.Embedding(40, 32), nn.Flatten(), nn.Linear(192, 4)).eval()
    task = Task(model, example=(ids[:2],), validation=(ids, torch.arange(16) % 4))
    quantized = WeightsOnly(bits=4)(capture(model, example=ids[:2]))
    assert list(layer_bits(quantized).values()) == ["W8", "W4"]
    assert len(list(metric_drops(quantized, list(layer_bits(quantized)), task, 16))) == 2

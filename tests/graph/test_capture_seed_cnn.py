import torch

from leanly.graph import capture
from tests.graph.models import SeedCNN, close


def test_same_numbers_at_any_batch_size_though_the_example_had_one_row():
    model = SeedCNN().eval()
    graph = capture(model, example=(torch.randn(1, 1, 28, 28),))
    for rows in (1, 2, 7):
        x = torch.randn(rows, 1, 28, 28)
        close(graph(x), model(x))


def test_names_specs_and_operators():
    model = SeedCNN().eval()
    graph = capture(model, example=torch.randn(6, 1, 28, 28))
    assert [name for name, _ in graph.named_parameters()] == [name for name, _ in model.named_parameters()]
    (given,), (out,) = graph.inputs, graph.outputs
    assert (given.name, given.dtype, given.shape) == ("x", "float32", ("batch", 1, 28, 28))
    assert (out.name, out.shape) == ("output", ("batch", 10))
    operators = [str(node.target) for node in graph.module.graph.nodes if node.op == "call_function"]
    assert operators.count("aten.conv2d.default") == 2 and operators.count("aten.linear.default") == 2
    assert "aten.view.default" not in operators
    assert len(graph.example[0]) == 4 and len(graph.example_batch(9)[0]) == 9


def test_channels_last_input_passes_the_hard_coded_view():
    model = SeedCNN().eval()
    graph = capture(model, example=torch.randn(2, 1, 28, 28))
    x = torch.randn(3, 1, 28, 28)
    close(graph(x.to(memory_format=torch.channels_last)), model(x))


def test_the_module_is_neither_changed_nor_shared():
    model = SeedCNN().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = capture(model, example=torch.randn(2, 1, 28, 28))
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_node_names_the_users_line():
    graph = capture(SeedCNN().eval(), example=torch.randn(2, 1, 28, 28))
    view = next(node for node in graph.module.graph.nodes if str(node.target) == "aten.reshape.default")
    name, line, code = graph.source(view).split(":", 2)
    assert name.endswith("tests/graph/models.py") and int(line) > 0 and code.strip() == "x = x.view(-1, 64 * 7 * 7)"
    conv = next(node for node in graph.module.graph.nodes if str(node.target) == "aten.conv2d.default")
    assert conv.meta["path"] == "conv1" and "self.conv1(x)" in graph.source(conv)

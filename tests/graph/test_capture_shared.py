import torch
from torch import nn

from leanly.graph import Graph, capture
from tests.graph.models import close


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 20, bias=False)
        self.head.weight = self.words.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, ids):
        return self.head(self.body(self.words(ids)))


def _one(graph: Graph) -> None:
    module = graph.module
    assert module.words.weight is module.head.weight
    assert sum(parameter.numel() for parameter in graph.parameters()) == 20 * 6 + 42 + 6
    before = graph(torch.zeros(1, 2, dtype=torch.int64))
    with torch.no_grad():
        module.words.weight.mul_(2)
    assert torch.equal(module.words.weight, module.head.weight)
    assert not torch.equal(before, graph(torch.zeros(1, 2, dtype=torch.int64)))


def test_tied_weights_stay_one_through_capture_clone_move_save_and_open(tmp_path):
    model = Tied().eval()
    graph = capture(model, example=torch.randint(0, 20, (2, 3)))
    ids = torch.randint(0, 20, (4, 3))
    close(graph(ids), model(ids))
    graph.save(tmp_path / "graph")
    for other in (graph.clone(), Graph.open(tmp_path / "graph"), graph.to("cpu"), graph.clone().to("meta").clone()):
        assert list(other.state_dict()) == list(model.state_dict())
        if other.device.type == "cpu":
            _one(other)
        else:
            assert other.module.words.weight is other.module.head.weight


def test_a_gradient_reaches_the_shared_weight_from_both_ends():
    model = Tied()
    graph = capture(model, example=torch.randint(0, 20, (2, 3)))
    ids = torch.randint(0, 20, (4, 3))
    graph(ids).square().sum().backward()
    model(ids).square().sum().backward()
    close(dict(graph.named_parameters())["words.weight"].grad, model.words.weight.grad)


def test_a_clone_is_independent():
    graph = capture(Tied().eval(), example=torch.randint(0, 20, (2, 3)))
    clone = graph.clone()
    ids = torch.randint(0, 20, (4, 3))
    assert torch.equal(graph(ids), clone(ids)) and graph.fingerprint() == clone.fingerprint()
    before = graph(ids)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.add_(1)
    clone.kept["words.weight"] = (None, torch.arange(3))
    clone.train()
    assert torch.equal(graph(ids), before) and not graph.kept and not graph.training
    assert graph.fingerprint() != clone.fingerprint()


def test_the_fingerprint_does_not_depend_on_the_mode():
    graph = capture(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval(), example=torch.randn(2, 4))
    before = graph.fingerprint()
    assert graph.train().fingerprint() == before

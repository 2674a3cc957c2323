import torch
from torch import nn

from leanly.graph import Graph
from tests.prune.surgery import operate


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 16)
        self.mix = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 40)
        self.head.weight = self.words.weight

    def forward(self, ids):
        x = self.words(ids)
        return self.head(x + self.mix(x))


def test_two_names_stay_one_tensor(tmp_path, elsewhere):
    _, half = operate(Tied(), torch.randint(0, 40, (2, 6)), tmp_path, elsewhere)
    assert half.module.words.weight is half.module.head.weight
    assert half.module.words.weight.shape == (40, 8)
    assert torch.equal(half.kept["words.weight"][1], half.kept["head.weight"][1])
    half.save(tmp_path / "tied")
    opened = Graph.open(tmp_path / "tied")
    assert opened.module.words.weight is opened.module.head.weight

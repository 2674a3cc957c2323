import torch
from torch import nn

from tests.prune.surgery import operate


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.down, self.up = nn.Conv2d(16, 6, 1), nn.Conv2d(6, 16, 1)
        self.tail = nn.Conv2d(16, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(torch.nn.functional.hardswish(self.tail(x * gate)).mean((2, 3)))


def test_the_gate_goes_with_its_channel(tmp_path, elsewhere):
    _, half = operate(SqueezeExcite(), torch.randn(2, 3, 10, 10), tmp_path, elsewhere)
    channels = half.kept["stem.weight"][0]
    for name, dim in (("norm.weight", 0), ("down.weight", 1), ("up.weight", 0), ("up.bias", 0), ("tail.weight", 1)):
        assert torch.equal(half.kept[name][dim], channels)
    assert len(half.kept["up.weight"][1]) == 3

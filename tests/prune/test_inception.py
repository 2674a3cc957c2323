import torch
from torch import nn

from tests.prune.surgery import operate


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.one = nn.Conv2d(12, 6, 1)
        self.three = nn.Sequential(nn.Conv2d(12, 8, 1), nn.ReLU(), nn.Conv2d(8, 10, 3, padding=1))
        self.five = nn.Sequential(nn.Conv2d(12, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 5, padding=2))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(12, 6, 1))
        self.tail = nn.Conv2d(30, 16, 3)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1))
        return self.head(torch.relu(self.tail(x)).amax((2, 3)))


def test_branches_are_cut_on_their_own(tmp_path, elsewhere):
    _, half = operate(Inception(), torch.randn(2, 3, 12, 12), tmp_path, elsewhere)
    widths = [len(half.kept[f"{name}.weight"][0]) for name in ("one", "three.2", "five.2", "pool.1")]
    assert widths == [3, 5, 4, 3]
    assert len(half.kept["tail.weight"][1]) == sum(widths)

import torch
from torch import nn

from tests.prune.surgery import operate


class Grouped(nn.Module):
    """A bottleneck with groups, an inverted one with a depthwise kernel, and one with two outputs a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.enter, self.groups, self.leave = nn.Conv2d(16, 24, 1), nn.Conv2d(24, 24, 3, groups=6), nn.Conv2d(24, 16, 1)
        self.wide, self.depth, self.narrow = nn.Conv2d(16, 20, 1), nn.Conv2d(20, 20, 3, groups=20), nn.Conv2d(20, 12, 1)
        self.twice = nn.Conv2d(12, 24, 1, groups=12)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.leave(torch.relu(self.groups(torch.relu(self.enter(x)))))
        x = torch.relu(self.narrow(nn.functional.relu6(self.depth(nn.functional.relu6(self.wide(x))))))
        return self.head(torch.relu(self.twice(x)).mean((2, 3)))


def test_groups_follow(tmp_path, elsewhere):
    _, half = operate(Grouped(), torch.randn(2, 3, 10, 10), tmp_path, elsewhere)
    counts = [node.args[6] for node in half.module.graph.nodes if len(node.args) > 6]
    assert counts == [3, 10, 6]
    shapes = {name: tuple(tensor.shape) for name, tensor in half.named_parameters()}
    assert shapes["groups.weight"] == (12, 4, 3, 3) and shapes["depth.weight"] == (10, 1, 3, 3)
    assert shapes["twice.weight"] == (12, 1, 1, 1)

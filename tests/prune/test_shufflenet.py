import torch
from torch import nn

from leanly.graph import capture
from leanly.prune import Channels
from tests.prune.surgery import operate, same, scrambled, zeroed


def shuffled(x: torch.Tensor, groups: int) -> torch.Tensor:
    rows, channels, height, width = x.shape
    x = x.view(rows, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(rows, channels, height, width)


class Unit(nn.Module):
    """Half of the channels pass, half go through a branch; then they are shuffled (Ma et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
        )

    def forward(self, x):
        left, right = x.chunk(2, 1)
        return shuffled(torch.cat([left, self.branch(right)], 1), 2)


class Grouped(nn.Module):
    """Grouped 1x1 convolutions with a shuffle between them (Zhang et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3)
        self.one = nn.Conv2d(channels, channels, 1, groups=3)
        self.two = nn.Conv2d(channels, channels, 1, groups=3)
        self.head = nn.Linear(channels, 5)

    def forward(self, x):
        x = torch.relu(self.one(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.two(shuffled(x, 3))).mean((2, 3)))


def test_shuffled_halves(tmp_path, elsewhere):
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3), Unit(24), Unit(24), nn.Conv2d(24, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 5),
    )  # fmt: skip
    _, half = operate(model, torch.randn(2, 3, 10, 10), tmp_path, elsewhere)
    assert len(half.kept["1.branch.0.weight"][0]) == len(half.kept["1.branch.3.weight"][0]) == 6
    assert half.kept["1.branch.3.weight"][1] is None, "a depthwise kernel reads one channel"


def test_shuffled_groups(tmp_path, elsewhere):
    _, half = operate(Grouped(36), torch.randn(2, 3, 10, 10), tmp_path, elsewhere, macs=None)
    assert [node.args[6] for node in half.module.graph.nodes if len(node.args) > 6] == [3, 3]
    # what the shuffle joins: the same channels of each group, spread over all groups of the next convolution
    kept = half.kept["one.weight"][0]
    assert torch.equal(kept.reshape(3, 6) % 12, (kept[:6] % 12).expand(3, 6))


def test_a_shuffle_that_fits_no_groups_is_kept_whole():
    graph = capture(scrambled(Grouped(24)), example=torch.randn(2, 3, 6, 6))  # 3 x 8 against 8 x 3
    half = Channels(0.5)(graph)
    same(half, zeroed(graph, half))
    assert half.kept["one.weight"][0] is None and len(half.kept["stem.weight"][0]) == 12

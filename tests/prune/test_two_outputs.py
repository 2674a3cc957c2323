import torch
from torch import nn

from tests.prune.surgery import operate


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1)
        self.boxes, self.classes = nn.Conv2d(16, 4, 1), nn.Linear(16, 5)

    def forward(self, x):
        features = torch.relu(self.body(torch.relu(self.stem(x))))
        return {"boxes": self.boxes(features), "classes": self.classes(features.mean((2, 3)))}


class Leaking(nn.Module):
    """What is looked at from outside keeps its width."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 10), nn.Linear(10, 12), nn.Linear(12, 3)

    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.three(torch.relu(self.two(hidden))), hidden


def test_two_heads_on_one_trunk(tmp_path, elsewhere):
    _, half = operate(Detector(), torch.randn(2, 3, 8, 8), tmp_path, elsewhere)
    assert torch.equal(half.kept["boxes.weight"][1], half.kept["classes.weight"][1])
    assert [spec.shape for spec in half.outputs] == [("batch", 4, 8, 8), ("batch", 5)]


def test_an_output_in_the_middle_is_not_cut(tmp_path, elsewhere):
    _, half = operate(Leaking(), torch.randn(2, 6), tmp_path, elsewhere)
    assert set(half.kept) == {"two.weight", "two.bias", "three.weight"} and half.kept["two.weight"][1] is None

import torch
from torch import nn

from tests.prune.surgery import operate


class Layer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        x = torch.cat(features, 1)
        return self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))


class DenseBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(Layer(8 + 6 * place, 6) for place in range(3))
        self.norm = nn.BatchNorm2d(26)
        self.head = nn.Linear(26, 5)

    def forward(self, x):
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(features))
        return self.head(torch.relu(self.norm(torch.cat(features, 1))).mean((2, 3)))


def test_every_layer_reads_what_is_left_of_all_before(tmp_path, elsewhere):
    _, half = operate(DenseBlock(), torch.randn(2, 3, 8, 8), tmp_path, elsewhere)
    stem = half.kept["stem.weight"][0].tolist()
    grown = [half.kept[f"layers.{place}.conv2.weight"][0] for place in range(3)]
    expected = stem + [8 + 6 * place + index for place, kept in enumerate(grown) for index in kept.tolist()]
    assert half.kept["norm.running_mean"][0].tolist() == expected
    assert half.kept["layers.1.conv1.weight"][1].tolist() == [index for index in expected if index < 14]

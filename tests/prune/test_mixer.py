import torch
from torch import nn

from tests.prune.surgery import operate


class Mixer(nn.Module):
    """Layers over tokens and layers over channels in turns (Tolstikhin et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))
        self.tokens = nn.ModuleList(nn.Sequential(nn.Linear(9, 14), nn.GELU(), nn.Linear(14, 9)) for _ in range(2))
        self.channels = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        for place in range(2):
            x = x + self.tokens[place](self.norms[2 * place](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels[place](self.norms[2 * place + 1](x))
        return self.head(x.mean(1))


def test_tokens_and_channels(tmp_path, elsewhere):
    _, half = operate(Mixer(), torch.randn(2, 3, 12, 12), tmp_path, elsewhere)
    assert set(half.kept) == {
        f"{kind}.{place}.{name}"
        for kind in ("tokens", "channels")
        for place in range(2)
        for name in ("0.weight", "0.bias", "2.weight")
    }

import torch
from torch import nn

from tests.prune.surgery import operate


class Siamese(nn.Module):
    """One encoder for two inputs, compared by their product; a third only gates."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12))
        self.gate = nn.Linear(4, 12)
        self.head = nn.Linear(24, 3)

    def forward(self, left, right, *, context):
        one, other = self.encoder(left), self.encoder(right)
        return self.head(torch.cat([one * other, (one - other).abs() * torch.sigmoid(self.gate(context))], -1))


def test_a_shared_encoder(tmp_path, elsewhere):
    inputs = {"left": torch.randn(2, 6), "right": torch.randn(2, 6), "context": torch.randn(2, 4)}
    _, half = operate(Siamese(), inputs, tmp_path, elsewhere)
    kept = half.kept["encoder.2.weight"][0]
    assert torch.equal(half.kept["gate.weight"][0], kept)
    assert half.kept["head.weight"][1].tolist() == kept.tolist() + (kept + 12).tolist()
    assert [spec.shape for spec in half.inputs] == [("batch", 6), ("batch", 6), ("batch", 4)]

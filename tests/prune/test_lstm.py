import pytest
import torch
from torch import nn

from tests.prune.surgery import operate


class Classifier(nn.Module):
    def __init__(self, kind: str, bidirectional: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.rnn = getattr(nn, kind)(12, 10, num_layers=2, bidirectional=bidirectional, batch_first=True)
        self.hidden, self.head = nn.Linear(20 if bidirectional else 10, 8), nn.Linear(8, 3)

    def forward(self, ids):
        states, _ = self.rnn(self.words(ids))
        return self.head(torch.relu(self.hidden(states[:, -1])))


@pytest.mark.parametrize(("kind", "bidirectional"), [("LSTM", True), ("GRU", False)])
def test_a_state_leaves_all_its_gates(tmp_path, elsewhere, kind: str, bidirectional: bool):
    model = Classifier(kind, bidirectional)
    _, half = operate(model, torch.randint(0, 50, (2, 7)), tmp_path, elsewhere)
    rows, columns = half.kept["rnn.weight_hh_l0"]
    gates = 4 if kind == "LSTM" else 3
    assert len(columns) == 5
    assert torch.equal(rows.reshape(gates, 5) - 10 * torch.arange(gates)[:, None], columns.expand(gates, 5))
    assert len(half.kept["words.weight"][1]) == 6 and half.kept["words.weight"][0] is None

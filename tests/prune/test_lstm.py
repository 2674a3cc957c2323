import pytest
import torch
from torch import nn

from leanly.errors import LeanlyWarning
from leanly.graph import capture
from leanly.prune import Channels
from tests.prune.surgery import differs, operate, same, scrambled, zeroed


class Classifier(nn.Module):
    def __init__(self, kind: str, bidirectional: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.rnn = getattr(nn, kind)(12, 10, num_layers=2, bidirectional=bidirectional, batch_first=True)
        self.hidden, self.head = nn.Linear(20 if bidirectional else 10, 8), nn.Linear(8, 3)

    def forward(self, ids):
        states, _ = self.rnn(self.words(ids))
        return self.head(torch.relu(self.hidden(states[:, -1])))


def leaves_all_gates(half, gates: int) -> None:
    rows, columns = half.kept["rnn.weight_hh_l0"]
    assert len(columns) == 5
    assert torch.equal(rows.reshape(gates, 5) - 10 * torch.arange(gates)[:, None], columns.expand(gates, 5))


def test_a_state_leaves_all_its_gates(tmp_path, elsewhere):
    _, half = operate(
        Classifier("LSTM", bidirectional=True), torch.randint(0, 50, (2, 7)), tmp_path, elsewhere, lowered=True
    )
    leaves_all_gates(half, 4)
    assert len(half.kept["words.weight"][1]) == 6 and half.kept["words.weight"][0] is None


@pytest.mark.parametrize(("kind", "gates"), [("GRU", 3), ("RNN", 1)])
def test_other_cells(kind: str, gates: int):
    graph = capture(scrambled(Classifier(kind, bidirectional=False)), example=torch.randint(0, 50, (2, 7)))
    half = Channels(0.5)(graph)
    leaves_all_gates(half, gates)
    differs(half, graph)
    same(half, zeroed(graph, half))


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
def test_a_projected_state_is_kept_whole():
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 10, proj_size=4, batch_first=True)
            self.hidden, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(torch.relu(self.hidden(self.rnn(x)[0][:, -1])))

    graph = capture(scrambled(Projected()), example=torch.randn(2, 5, 6))
    with pytest.warns(LeanlyWarning, match=r"aten\.lstm\.input at .* keeps .*rnn\.weight_ih_l0"):
        half = Channels(0.5)(graph)
    assert set(half.kept) == {"hidden.weight", "hidden.bias", "head.weight"} and half.kept["hidden.weight"][1] is None
    same(half, zeroed(graph, half))

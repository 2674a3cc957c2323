import torch

from tests.graph.models import SeedCNN
from tests.prune.surgery import cut_shares, operate


def test_a_hard_coded_view_follows_the_cut(tmp_path, elsewhere):
    graph, half = operate(SeedCNN(), torch.randn(2, 1, 28, 28), tmp_path, elsewhere)
    assert cut_shares(graph, half) == {
        "conv1.weight": [0.5, 0, 0, 0],
        "conv1.bias": [0.5],
        "conv2.weight": [0.5, 0.5, 0, 0],
        "conv2.bias": [0.5],
        "fc1.weight": [0.5, 0.5],
        "fc1.bias": [0.5],
        "fc2.weight": [0, 0.5],
    }
    # 49 positions a channel: what remains of the linear layer are whole channels
    remaining = half.kept["fc1.weight"][1].reshape(-1, 49)
    assert torch.equal(remaining // 49, half.kept["conv2.weight"][0][:, None].expand(-1, 49))
    reshape = next(node for node in half.module.graph.nodes if str(node.target) == "aten.reshape.default")
    assert reshape.args[1] == [-1, 32 * 7 * 7]

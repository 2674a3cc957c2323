import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from bench.zeroing import zeroed
from leanly.graph import capture, tensors
from leanly.prune import Channels
from tests.prune.surgery import differs, same, scrambled


def test_length_and_direction_go_together():
    model = nn.Sequential(
        weight_norm(nn.Conv2d(3, 16, 3)),
        nn.ReLU(),
        weight_norm(nn.ConvTranspose2d(16, 8, 3)),
        nn.ReLU(),
        nn.Flatten(),
        weight_norm(nn.Linear(8 * 64, 5)),
    )
    graph = capture(scrambled(model), example=torch.randn(2, 3, 8, 8))
    small = Channels(fraction=0.5, normalized=False)(graph)
    whole = zeroed(graph, small)
    for place in (0, 2):
        length, direction = (f"{place}.parametrizations.weight.original{number}" for number in (0, 1))
        assert torch.equal(small.kept[length][0], small.kept[direction][0]) and len(small.kept[length][0]) < 16
        gone = tensors.find(whole.module, length).flatten() == 0
        with torch.no_grad():  # a direction of zeros is none: its length, which is zero, decides
            tensors.find(whole.module, direction)[gone] = 1
    same(small, whole)
    differs(small, graph)

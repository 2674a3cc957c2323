"""What a graph gives away of the data it was captured with."""

import torch
from torch import nn

import leanly


def test_without_rows_keeps_shapes_and_ranges_but_no_row():
    ids = torch.randint(3, 9, (4, 6))
    model = nn.Sequential(nn.Embedding(10, 5), nn.Flatten(), nn.Linear(30, 2)).eval()
    graph = leanly.capture(model, example=(ids,))
    bare = graph.without_rows()
    assert bare.example[0].shape == ids.shape and bare.example[0].dtype == ids.dtype
    assert ids.min() <= bare.example[0].min() and bare.example[0].max() <= ids.max()
    assert not any(torch.equal(row, mine) for row in bare.example[0] for mine in ids)
    assert torch.equal(graph.example[0], ids[: len(graph.example[0])])
    assert torch.equal(bare(ids), graph(ids))

"""One operator between two layers: what of the first may be cut, and that the cut is exact."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from leanly.errors import LeanlyWarning
from leanly.graph import Graph, capture
from leanly.graph.coupling import couple
from leanly.prune import Channels
from tests.prune.surgery import differs, same, scrambled, zeroed

ORDER = torch.tensor([3, 1, 2, 0, *range(4, 16)])

CUT = {
    "flip": lambda x: x.flip(-1),
    "unfold": lambda x: x.unfold(-1, 4, 4).reshape(x.shape[0], 16),
    "stack": lambda x: torch.stack([x, x], 1).sum(1),
    "every other": lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1),
    "broadcast product": lambda x: (x[:, :, None] * x[:, None]).sum(1),
    "pad and crop": lambda x: functional.pad(x[:, 2:], (1, 1)),
    "negative pad": lambda x: functional.pad(functional.pad(x, (-1, -1)), (2, 0)),
    "repeat": lambda x: x.repeat(1, 2)[:, 8:24],
    "pixel shuffle": lambda x: functional.pixel_shuffle(x.reshape(-1, 16, 1, 1), 2).flatten(1),
    "gated": lambda x: functional.glu(torch.cat([x, x], -1)),
    "unit length": lambda x: functional.normalize(x, dim=-1),
    "einsum": lambda x: torch.einsum("bi,bj->bj", x, x),
    "einsum over an ellipsis": lambda x: torch.einsum("b...i,b...i->b...i", x, x),
    "cosine": lambda x: x * functional.cosine_similarity(x, x * 2, dim=-1)[:, None],
    "listed": lambda x: x[:, [3, 1, 2, 0, *range(4, 16)]],
    "sampled": lambda x: functional.grid_sample(
        x.reshape(-1, 4, 2, 2), torch.full((x.shape[0], 2, 2, 2), 0.25), align_corners=False
    ).flatten(1),
    "unfolded": lambda x: functional.unfold(x.reshape(-1, 4, 2, 2), 2).flatten(1),
    "folded": lambda x: functional.fold(
        functional.unfold(x.reshape(-1, 4, 2, 2), 2, padding=1), (2, 2), 2, padding=1
    ).flatten(1),
    "counted out": lambda x: x + torch.arange(16).sin(),
    "counted out, in parts": lambda x: (
        x * torch.linspace(1, 2, 8).repeat_interleave(2).split(4)[1].repeat(4) + torch.eye(16)[3]
    ),
    "counted out beside ones": lambda x: x + torch.ones(16) * torch.arange(16),
    "maximum": lambda x: torch.maximum(x, -x),
    "split unevenly": lambda x: torch.cat(x.split([3, 8, 5], 1)[::-1], 1),
    "unflatten": lambda x: x.unflatten(1, (4, 4)).transpose(1, 2).flatten(1),
    "movedim": lambda x: x.reshape(-1, 2, 8).movedim(2, 1).reshape(-1, 16),
    "written in place": lambda x: _doubled(x),
    "new tensor": lambda x: x + x.new_ones(x.shape[0], 16),
    "masked": lambda x: x.masked_fill(x < -0.5, 0.0),
    "batch matrix product": lambda x: torch.bmm(x[:, None], x[:, :, None] @ x[:, None])[:, 0],
    "group norm": lambda x: functional.group_norm(x, 4),
    "instance norm": lambda x: functional.instance_norm(x[:, :, None] * torch.linspace(1, 2, 5)).sum(-1),
}
KEPT = {
    "aten.roll.default": lambda x: x.roll(3, -1),
    "aten.cumsum.default": lambda x: x.cumsum(-1),
    "aten.softmax.int": lambda x: x.softmax(-1),
    "aten.sort.default": lambda x: x.sort(-1)[0],
    "aten.index.Tensor": lambda x: x[:, ORDER - 16],
    "aten.gather.default": lambda x: x.gather(1, x.argsort(-1)),
    "aten.fft_fft.default": lambda x: torch.fft.fft(x).real,
    "aten.diff.default": lambda x: torch.cat([x.diff(), x[:, :1]], 1),
    "aten.cdist.default": lambda x: x * torch.cdist(x[:, None], x[:, None])[:, 0],
    "aten.as_strided.default": lambda x: x.as_strided((x.shape[0], 16), (16, 1)),
    "aten.amax.default": lambda x: x - x.amax(-1, keepdim=True),
    "aten.topk.default": lambda x: torch.cat([x.topk(8, -1)[0], x[:, 8:]], 1),
    "aten.max_pool1d.default": lambda x: functional.max_pool1d(x[:, None], 3, 1, 1)[:, 0],
    "aten.upsample_nearest1d.vec": lambda x: functional.interpolate(x[:, None], size=16)[:, 0],
    "aten.conv1d.default": lambda x: functional.conv1d(x[:, None], torch.ones(1, 1, 3), padding=1)[:, 0],
}


def _doubled(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 4:8] *= 2
    return y


class Between(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.one, self.two, self.three = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.three(torch.relu(self.two(self.function(self.one(x)))))


def graph_of(function):
    return capture(scrambled(Between(function)), example=torch.randn(2, 6))


@pytest.mark.parametrize("name", CUT)
def test_an_operator_that_lets_indices_leave(name: str):
    graph = graph_of(CUT[name])
    coupling = couple(graph)
    assert not coupling.frozen
    small = Channels(0.5)(graph)
    if name == "group norm":  # whole groups leave, and the others are normalized as before
        assert not any(axis.changes_statistics for group in coupling.groups for axis in group.axes[:1])
    assert 7 <= len(small.kept["one.weight"][0]) <= 9 and len(small.kept["two.weight"][0]) == 6
    differs(small, graph)
    same(small, zeroed(graph, small))


@pytest.mark.parametrize("operator", KEPT)
def test_an_operator_that_keeps_them_is_named_with_its_line(operator: str):
    graph = graph_of(KEPT[operator])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeanlyWarning)
        small = Channels(0.5)(graph)
    assert "one.weight" not in small.kept and len(small.kept["two.weight"][0]) == 6
    same(small, zeroed(graph, small))
    (note,) = [note for note in small.notes if note.startswith("prune.Channels")]
    assert operator in note and "test_operators.py" in note and "one.weight" in note


def test_what_keeps_is_listed_by_couple():
    (frozen,) = couple(graph_of(KEPT["aten.cumsum.default"])).frozen
    assert (frozen.operator, frozen.tensors) == ("aten.cumsum.default", ("one.weight", "one.bias"))
    assert "test_operators.py" in frozen.source


def test_a_constant_that_a_cut_made_is_followed_by_the_next(tmp_path):
    graph = graph_of(CUT["every other"])
    once = Channels(0.4)(graph)
    assert any(str(node.target) == "aten.index_select.default" for node in once.module.graph.nodes)
    once.save(tmp_path / "once")
    twice = Channels(0.3)(Graph.open(tmp_path / "once"))
    assert set(twice.kept) == {"one.weight", "one.bias", "two.weight", "two.bias", "three.weight"}
    same(twice, zeroed(graph, twice))
    assert len(twice.kept["one.weight"][0]) < len(once.kept["one.weight"][0])

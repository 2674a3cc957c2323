"""Awkward cuts: sums over what is not zero, fixed filters, layers that a criterion doesn't know, coarse steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leanly
from leanly.costs import CostTable
from leanly.errors import DataError, SettingError
from leanly.families.allocation import layer_widths
from leanly.graph import Graph
from leanly.graph.coupling import couple
from leanly.prune import Channels, Refit, Sparse, SparseGPT
from leanly.training import BatchNorm
from tests.prune.surgery import differs, same, scrambled, zeroed


def task_of(model: nn.Module, *shape: int, rows: int = 24) -> leanly.Task:
    x = torch.randn(rows, *shape, generator=torch.Generator().manual_seed(1))
    return leanly.Task(model.eval(), example=(x[:2],), train=(x, torch.arange(rows) % 4))


def captured(model: nn.Module, *shape: int) -> Graph:
    return leanly.capture(model.eval(), example=(torch.randn(2, *shape),))


class Summed(nn.Module):
    """Two linear layers with something between that adds up over the features of the first."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.between = nn.Linear(6, 8), nn.Linear(8, 4), between

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        return self.two(y * self.between(y))


def changes(graph: Graph) -> list[bool]:
    return [axis.changes_statistics for group in couple(graph).groups for axis in group.axes]


@pytest.mark.parametrize(
    ("between", "changed"),
    [
        (lambda y: torch.relu(y).sum(1, keepdim=True), False),
        (lambda y: (2 * F.gelu(y) * y.sigmoid()).sum(1, keepdim=True), False),
        (lambda y: (y.unsqueeze(1) @ torch.tanh(y).unsqueeze(2)).squeeze(2), False),
        (lambda y: (y**2).sum(1, keepdim=True), False),
        (lambda y: (y**0).sum(1, keepdim=True), True),
        (lambda y: torch.where(y.abs() > 0.1, y, 1.0).sum(1, keepdim=True), True),
        (lambda y: torch.where(y > 0.1, y, 0.0).sum(1, keepdim=True), False),
        (lambda y: torch.sigmoid(y).sum(1, keepdim=True), True),
        (lambda y: (F.elu(y) + 1).sum(1, keepdim=True), True),
        (lambda y: (torch.cos(y).unsqueeze(1) @ torch.exp(y).unsqueeze(2)).squeeze(2), True),
        (lambda y: torch.einsum("bi,bi->b", y.exp(), y.cos()).unsqueeze(1), True),
        (lambda y: torch.einsum("bi,bi->b", y.exp(), y).unsqueeze(1), False),
        (lambda y: (y - y.mean(1, keepdim=True)).square().sum(1, keepdim=True), True),
    ],
)
def test_a_sum_over_what_is_not_zero_when_cut_changes_statistics(between, changed):
    model = Summed(between)
    graph = captured(model, 6)
    assert changes(graph) == [changed]
    if changed:
        with pytest.raises(SettingError, match="nothing can be removed"):
            Channels(fraction=0.5, normalized=False)(graph)
        return
    small = Channels(fraction=0.5, normalized=False)(graph)
    kept = small.kept["one.weight"][0]
    gone = [index for index in range(8) if index not in set(map(int, kept))]
    assert len(gone) == 4
    with torch.no_grad():
        model.one.weight[gone], model.one.bias[gone] = 0, 0
    x = torch.randn(5, 6)
    torch.testing.assert_close(small(x), model(x))


class Blurred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.norm, self.two = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)
        self.register_buffer("blur", torch.rand(8, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(torch.relu(self.norm(self.one(x))), self.blur, groups=8)
        return self.two(x).mean((2, 3))


@pytest.mark.parametrize("importance", ["fisher", "activation_entropy", "second_order"])
def test_fixed_filters_are_read_by_no_criterion_and_changed_by_no_pass(importance):
    model = Blurred()
    task, graph = task_of(model, 3, 12, 12), captured(model, 3, 12, 12)
    small = Channels(fraction=0.5, importance=importance)(graph, task)
    blur = dict(small.module.named_buffers())["blur"].clone()
    assert blur.shape == (4, 1, 3, 3)
    for changed in (Refit()(small, task), SparseGPT(sparsity=0.5)(small, task), Sparse(sparsity=0.5)(small)):
        assert torch.equal(dict(changed.module.named_buffers())["blur"], blur)


@pytest.mark.parametrize("apply", [Refit(), BatchNorm(), SparseGPT(sparsity=0.5)], ids=lambda one: type(one).__name__)
def test_rows_that_are_no_rows_are_refused_by_every_pass(apply):
    model = Blurred()
    graph = captured(model, 3, 12, 12)
    bad = torch.randn(24, 3, 12, 12)
    bad[5, 0, 0, 0] = math.nan
    for rows, said in (
        (bad, "holds NaN or infinity in row 5"),
        (torch.randn(24, 3, 12, 12).double(), "is float64, and the graph takes float32"),
        (torch.randn(24, 3, 10, 10), r"is of shape \[24, 3, 10, 10\]"),
    ):
        task = leanly.Task(model, example=(torch.randn(2, 3, 12, 12),), train=(rows, torch.arange(24) % 4))
        with pytest.raises(DataError, match=said):
            apply(graph, task)
    with pytest.raises(SettingError, match="a list was given where a Task is needed"):
        apply(graph, [bad])


@pytest.mark.parametrize("importance", ["fisher", "activation_entropy", "geometric_median", "weight_entropy"])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_are_judged_by_their_outputs(importance, groups):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 12, 2, 2, groups=groups), nn.ReLU(), nn.Conv2d(12, 4, 3)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    quiet = [1, 2, 4, 7, 9, 10]
    with torch.no_grad():
        weight = model[1].weight.reshape(groups, 8 // groups, 12 // groups, 2, 2)
        for channel in quiet:
            group, place = divmod(channel, 12 // groups)
            weight[group, :, place] = 0
            model[1].bias[channel] = 0
    task = task_of(model, 3, 8, 8)
    from leanly.prune.importance import CRITERIA

    found = CRITERIA[importance](captured(model, 3, 8, 8), task)["1.weight"]
    assert found.shape == model[1].weight.shape
    by_output = found.reshape(groups, 8 // groups, 12 // groups, 4).sum((1, 3)).flatten()
    others = [channel for channel in range(12) if channel not in quiet]
    assert by_output[quiet].max() < by_output[others].min()


def test_where_a_criterion_says_nothing_magnitude_decides_and_it_is_told():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 16, 3), nn.ReLU(), nn.Conv3d(16, 4, 3), nn.Flatten(), nn.Linear(32, 4)).eval()
    with torch.no_grad():
        model[0].weight[8:] *= 0.01
    graph = captured(model, 1, 6, 6, 6)
    small = Channels(fraction=0.5, importance="second_order")(graph, task_of(model, 1, 6, 6, 6))
    assert list(map(int, small.kept["0.weight"][0])) == list(range(8))
    assert any("second_order says nothing about 0.weight" in note and "magnitude" in note for note in small.notes)
    assert not any("says nothing" in note for note in Channels(fraction=0.5)(graph).notes)


def test_sequences_and_transposed_layers_get_zeros():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 3, padding="same"), nn.ReLU(), nn.ConvTranspose1d(8, 4, 2), nn.Flatten())
    task, graph = task_of(model, 3, 10), captured(model, 3, 10)

    def zeros(found: Graph) -> list[float]:
        return [float((found.module.get_parameter(f"{n}.weight") == 0).float().mean()) for n in (0, 2)]

    assert zeros(Sparse(sparsity=0.5)(graph)) == [0.5, 0.5]
    assert zeros(SparseGPT(sparsity=0.5)(graph, task)) == [0.5, 0.5]
    for method in (Sparse, SparseGPT):
        patterned = method(pattern=(2, 4), dense=("conv1d",))(graph, task).module.get_parameter("2.weight")
        assert ((patterned != 0).reshape(2, 4, 4, 2).sum(1) == 2).all(), "of every four neighbouring inputs"


def test_groups_of_transposed_layers_are_left_and_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 4, 2, groups=2), nn.Flatten())
    thinned = SparseGPT(sparsity=0.5)(captured(model, 3, 10), task_of(model, 3, 10))
    assert not (thinned.module.get_parameter("2.weight") == 0).any()
    assert any("SparseGPT left as they are: conv_transpose1d" in note for note in thinned.notes)


@pytest.mark.parametrize("kind", ["plain", "same", "strided", "grouped", "transposed"])
def test_sparse_gpt_of_a_sequence_comes_nearer_than_zeros_by_magnitude(kind):
    torch.manual_seed(0)
    settings = {
        "plain": {}, "same": {"padding": "same", "dilation": 2}, "strided": {"stride": 2, "padding": 1},
        "grouped": {"groups": 2}, "transposed": {"stride": 2},
    }[kind]  # fmt: skip
    layer = nn.ConvTranspose1d if kind == "transposed" else nn.Conv1d
    model = nn.Sequential(layer(4, 8, 3, **settings), nn.Flatten()).eval()
    mixing = torch.randn(4, 4)
    x = torch.einsum("bct,cd->bdt", torch.randn(64, 4, 12), mixing)
    task = leanly.Task(model, example=(x[:2],), train=(x, torch.arange(64) % 4))
    graph = leanly.capture(model, example=(x[:2],))
    lost = [
        float((found(x) - model(x)).detach().square().sum())
        for found in (SparseGPT(sparsity=0.5)(graph, task), Sparse(sparsity=0.5)(graph))
    ]
    assert lost[0] < 0.9 * lost[1]


def test_a_coarse_unit_is_taken_or_left_whichever_is_nearer():
    torch.manual_seed(0)
    graph = captured(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)), 10)
    for asked, left in ((0.3, 6), (0.35, 5), (0.9, 1)):
        small = Channels(macs=asked)(graph)
        assert small.module.get_parameter("0.weight").shape[0] == left
    assert any("0.3 of the MACs asked for, 0.25 gone" in note for note in Channels(macs=0.3)(graph).notes)


def test_times_that_fall_in_steps_are_used():
    graph = captured(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)), 10)

    def steps(outputs: int, terms: int) -> list[tuple[float, float, float]]:
        pairs = [(one, other) for one in range(1, outputs + 1) for other in range(1, terms + 1)]
        return [(one, other, -(-one // 8) * -(-other // 8) * 1e-3) for one, other in pairs]

    table = CostTable({"linear": steps(32, 10), "linear_1": steps(32, 32), "linear_2": steps(4, 32)})
    small = Channels(latency=0.3, costs=table)(graph)
    widths = [small.module.get_parameter(f"{n}.weight").shape[0] for n in (0, 2)]
    assert min(widths) < 32
    before, after = (
        sum(table.seconds(name, *widths) for name, widths in layer_widths(held).items()) for held in (graph, small)
    )
    assert after <= 0.75 * before


def test_nothing_that_takes_anything_is_told():
    graph = captured(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)), 10)
    with pytest.raises(SettingError, match="no layer of the network takes time"):
        Channels(latency=0.3, costs=CostTable({"other": [(1.0, 1.0, 1.0)]}))(graph)
    for costs in ("x", {"conv": 1}):
        with pytest.raises(SettingError, match=r"give leanly\.costs\.CostTable"):
            Channels(latency=0.3, costs=costs)
    for layers in (None, {"a": [1, 2]}, {"a": [(1.0, 1.0)]}):
        with pytest.raises(SettingError, match=r"CostTable.*\(outputs, terms, seconds\)"):
            CostTable(layers)
    with pytest.raises(SettingError, match="pattern=5"):
        Sparse(pattern=5)


class Mixer(nn.Module):
    """A layer between tokens reads channels as rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.tokens, self.head = nn.Linear(5, 8), nn.Linear(6, 6), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + torch.relu(self.tokens(x.transpose(1, 2))).transpose(1, 2)
        return self.head(x.mean(1))


def test_refit_leaves_what_it_can_not_solve_and_says_so():
    model = Mixer()
    task, graph = task_of(model, 6, 5, rows=64), captured(model, 6, 5)
    small = Channels(fraction=0.5)(graph, task)
    small = Refit(teacher=graph)(small, task)
    assert any("Refit left as they are: linear_1" in note for note in small.notes)
    other = Channels(fraction=0.25, importance="random")(graph, task)
    with pytest.raises(SettingError, match="the teacher has lost filters"):
        Refit(teacher=other)(graph, task)
    stranger = captured(nn.Sequential(nn.Flatten(), nn.Linear(30, 4)), 6, 5)
    with pytest.raises(SettingError, match="no layer of the graph is a part"):
        Refit(teacher=stranger)(small, task)


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)
        self.seed_vector, self.made = nn.Parameter(torch.randn(3)), nn.Linear(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.one.weight, 2 * self.one.bias) * self.made(self.seed_vector)
        return self.two(torch.relu(x))


@pytest.mark.parametrize("importance", ["fisher", "activation_entropy", "second_order"])
def test_computed_biases_and_vectors_stop_neither_criteria_nor_refit(importance):
    model = Doubled()
    task, graph = task_of(model, 6, rows=64), captured(model, 6)
    small = Channels(fraction=0.5, importance=importance)(graph, task)
    refitted = Refit()(small, task)
    assert any("Refit left as they are: linear_1, linear" in n or "left as they are" in n for n in refitted.notes)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    before, after = (float((held(x) - model(x)).detach().square().sum()) for held in (small, refitted))
    assert after < before


def test_a_criterion_that_finds_nothing_says_so():
    graph = captured(nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)), 10)
    with pytest.raises(SettingError, match=r"it finds nothing in this network that it can judge.*magnitude"):
        Channels(fraction=0.5, importance="skipping")(graph, task_of(nn.Sequential(nn.Linear(10, 4)), 10))


def test_tables_are_not_compared_row_by_row():
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.one, self.two = nn.Embedding(60_000, 4), nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, i: Tensor) -> Tensor:
            return self.two(torch.relu(self.one(self.table(i)))).mean(1)

    graph = leanly.capture(Words().eval(), example=(torch.randint(0, 9, (2, 5)),))
    small = Channels(fraction=0.5, importance="geometric_median")(graph)  # 29 GB, row by row
    assert small.module.get_parameter("one.weight").shape[0] == 4


class Cells(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = kind(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 8)
        memory = state
        for step in range(3):
            if isinstance(self.cell, nn.LSTMCell):
                state, memory = self.cell(x[:, step], (state, memory))
            else:
                state = self.cell(x[:, step], state)
        return self.head(state)


class Reordered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 7, 5, 4]))

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)[:, :, self.order])).mean(1)


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.both, self.two = nn.Linear(6, 8), nn.Bilinear(8, 8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.one(x))
        return self.two(self.both(x, x)).mean(1)


class Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8))
        self.two = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x))).mean(1)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda kind=kind: Cells(kind) for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)),
        Reordered,
        Pairs,
        Spectral,
    ],
)
def test_they_are_cut_exactly(make):
    torch.manual_seed(0)
    model = scrambled(make())
    graph = captured(model, 3, 6)
    small = Channels(fraction=0.5, normalized=False)(graph)
    assert small.cost().parameters < 0.7 * graph.cost().parameters
    same(small, zeroed(graph, small))
    differs(small, graph)


class StandardizedConv(nn.Conv2d):
    """Each filter is centred and scaled as it is used (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        standard = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-8).reshape_as(self.weight)
        return F.conv2d(x, standard, self.bias)


class Standardized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 8, 1), StandardizedConv(8, 10, 3)
        self.last = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(torch.relu(self.one(x))))
        return self.last(torch.relu(self.three(x)).mean((2, 3)))


def test_inputs_of_filters_that_are_standardized_change_statistics():
    torch.manual_seed(0)
    graph = captured(scrambled(Standardized()), 3, 8, 8)
    small = Channels(fraction=0.5, normalized=False)(graph)
    rows, inputs, *_ = small.kept["three.weight"]
    assert len(rows) == 5 and inputs is None and "two.bias" not in small.kept and len(small.kept["one.bias"][0]) == 6
    same(small, zeroed(graph, small))
    differs(small, graph)
    assert len(Channels(fraction=0.5)(graph).kept["three.weight"][1]) == 4


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.wide, self.last = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.wide(self.cell(x)[0][:, -1])))


def test_what_else_multiplies_and_was_left_is_named():
    model, x = Recurrent().eval(), torch.randn(40, 5, 6)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(40) % 3))
    graph = leanly.capture(model, example=x[:2])
    for change in (Sparse(sparsity=0.5), SparseGPT(sparsity=0.5)):
        assert any("left as they are: lstm" in note for note in change(graph, task).notes)
    small = Channels(fraction=0.5)(graph, task)
    assert any("left as they are: lstm" in note for note in Refit(teacher=graph)(small, task).notes)


class Turned(nn.Module):
    """A matrix for each row, added to one that `forward` makes and that a cut shortens along both of its dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.matrix, self.two = nn.Linear(3, 8), nn.Linear(3, 64), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        turned = self.matrix(x).view(-1, 8, 8) + torch.eye(8)
        return self.two(torch.bmm(self.one(x).unsqueeze(1), turned).squeeze(1))


@pytest.mark.parametrize("seed", range(4))
def test_what_forward_makes_follows_one_cut_after_another(seed: int):
    torch.manual_seed(seed)
    graph = small = captured(Turned(), 3)
    for _ in range(3):
        small = Channels(fraction=0.3)(small)
        same(small, zeroed(graph, small))
    assert len(small.kept["one.weight"][0]) < 5


class Rooted(nn.Module):
    """Gives NaN for rows that are far from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(8, 4)
        with torch.no_grad():
            self.one.weight.mul_(0.1)
            self.one.bias.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.three(torch.relu(self.two(torch.log(self.one(x)))))


@pytest.mark.parametrize("importance", ["second_order", "activation_entropy"])
def test_a_row_that_the_network_makes_nan_of_is_named(importance: str):
    torch.manual_seed(0)
    model, x = Rooted().eval(), torch.randn(24, 6)
    x[17] *= 100
    task = leanly.Task(model, example=(x[:2],), train=(x, torch.arange(24) % 4))
    graph = captured(model, 6)
    small = Channels(fraction=0.5, importance="magnitude")(graph)
    for refused in (Refit(teacher=graph), SparseGPT(sparsity=0.5), Channels(fraction=0.5, importance=importance)):
        with pytest.raises(DataError, match=r"NaN or infinity of row 17.*test_awkward_cuts.py"):
            refused(small, task)
    with pytest.raises(DataError, match="NaN or infinity of some rows"):
        Channels(fraction=0.5)(graph, task)


def test_weights_that_became_nan_are_refused_by_name():
    task = task_of(Rooted(), 6)
    graph = captured(task.model, 6)
    small = Channels(fraction=0.5, importance="magnitude")(graph)
    broken = graph.clone()
    with torch.no_grad():
        dict(broken.named_parameters())["two.weight"][1, 2] = math.nan
    for apply in (
        lambda: Channels(fraction=0.5, importance="magnitude")(broken),
        lambda: Sparse(sparsity=0.5)(broken),
        lambda: Refit(teacher=broken)(small, task),
    ):
        with pytest.raises(DataError, match=r"parameter 'two.weight' is nan at \[1, 2\]"):
            apply()


def test_a_choice_that_can_not_be_carried_out_is_told_as_one():
    class Rolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.roll(self.one(x), 1, 1))

    torch.manual_seed(3)
    graph = captured(Rolled(), 6)
    same(small := Channels(fraction=0.2)(graph), zeroed(graph, small))
    with pytest.raises(SettingError, match=r"the units that matter least can't be removed: aten.roll.*another share"):
        Channels(fraction=0.5)(graph)


def test_what_stands_in_the_way_is_told_for_what_it_is():
    wide = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    task = task_of(wide, 6)
    graph = captured(wide, 6)
    with pytest.raises(SettingError, match=r"in front of the pass of leanly.quantize"):
        Channels(fraction=0.5, importance="magnitude")(leanly.quantize.Binary()(graph, task))
    with pytest.raises(SettingError, match="shared, computed or quantized"):
        Refit(teacher=graph)(leanly.quantize.Static()(graph, task), task)
    with pytest.raises(SettingError, match="inputs and outputs hold every dimension of more than one index"):
        Channels(fraction=0.5)(captured(nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 4)), 6))
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    (note,) = Channels(fraction=0.5, importance="magnitude")(graph).notes
    assert "is zero: none of it matters more than the rest" in note


def test_of_a_parameter_that_is_cut_the_held_dimension_is_named():
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.pair, self.two = nn.Linear(6, 16), nn.Parameter(torch.randn(2, 16)), nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            return self.two(torch.stack([x @ self.pair[0], x @ self.pair[1]], 1))

    small = Channels(fraction=0.5)(captured(Read(), 6))
    assert small.kept["pair"][0] is None and len(small.kept["pair"][1]) == 8
    assert any("keeps a dimension of pair whole" in note for note in small.notes)

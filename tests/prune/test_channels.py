"""Channels: what is asked for, what is refused, and how a recipe tells it."""

import dataclasses
import functools
import itertools
import json
import math

import pytest
import torch
from torch import nn

import leanly
from leanly.costs import CostTable
from leanly.errors import DataError, LeanlyWarning, SettingError
from leanly.families.allocation import layer_widths
from leanly.graph import capture
from leanly.graph.coupling import couple
from leanly.prune import Channels, fisher, gradient, magnitude
from leanly.prune.importance import IN_LOSS
from leanly.recipe import Recipe
from tests.prune.surgery import cut_shares, same, scrambled, zeroed


class Convs(nn.Module):
    """A wide layer on few positions, and a narrow one on many."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 40, 3, stride=4)
        self.head = nn.Linear(40, 5)

    def forward(self, x):
        return self.head(torch.relu(self.late(torch.relu(self.early(x)))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.qkv, self.out = nn.Linear(16, 3 * heads * width), nn.Linear(heads * width, 7)

    def forward(self, x):
        rows, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(rows, tokens, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(mixed.reshape(rows, tokens, self.heads * self.width))


def mlp(*widths: int) -> nn.Sequential:
    layers = [layer for one, other in itertools.pairwise(widths) for layer in (nn.Linear(one, other), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def graph_of(model: nn.Module, *shape: int):
    return capture(scrambled(model), example=torch.randn(2, *shape))


@pytest.fixture(scope="module")
def convs():
    return graph_of(Convs(), 3, 16, 16)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.6, 0.8])
def test_the_share_of_macs_is_reached(convs, share):
    small = Channels(macs=share)(convs)
    assert abs(1 - small.cost().macs / convs.cost().macs - share) <= 0.1 * share
    same(small, zeroed(convs, small))


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7])
def test_the_share_of_every_group_is_reached(fraction):
    graph = graph_of(mlp(8, 40, 30, 20, 4), 8)
    for name, shares in cut_shares(graph, Channels(fraction)(graph)).items():
        for dim, share in enumerate(shares):
            outer = (name, dim) in (("0.weight", 1), ("6.weight", 0), ("6.bias", 0))
            assert share == 0 if outer else abs(share - fraction) <= 0.1 * fraction, (name, dim)


@pytest.mark.parametrize(
    ("heads", "width", "fraction", "kept_heads", "kept_width"),
    [(4, 8, 0.5, 2, 8), (12, 16, 0.3, 9, 15), (3, 20, 0.5, 2, 15), (6, 8, 1 / 3, 4, 8)],
)
def test_whole_heads_first_and_their_width_for_the_rest(heads, width, fraction, kept_heads, kept_width):
    graph = graph_of(Attention(heads, width), 5, 16)
    small = Channels(fraction)(graph)
    joint = small.kept["qkv.weight"][0].reshape(3, kept_heads, kept_width)
    assert all(len(set((head // width).tolist())) == 1 for head in joint.reshape(-1, kept_width))
    assert abs(1 - joint.numel() / (3 * heads * width) - fraction) <= 0.1 * fraction
    same(small, zeroed(graph, small))


def test_heads_are_taken_for_macs_too():
    graph = graph_of(Attention(6, 8), 5, 16)
    small = Channels(macs=0.4)(graph)
    assert abs(1 - small.cost().macs / graph.cost().macs - 0.4) <= 0.04
    same(small, zeroed(graph, small))


def test_the_least_important_leave():
    graph = graph_of(mlp(6, 10, 3), 6)
    with torch.no_grad():
        graph.module.get_parameter("0.weight")[[1, 4, 7]] *= 1e-3
        graph.module.get_parameter("2.weight")[:, [1, 4, 7]] *= 1e-3
    for settings in ({"fraction": 0.3}, {"macs": 0.3}):
        small = Channels(**settings)(graph)
        assert small.kept["0.weight"][0].tolist() == [0, 2, 3, 5, 6, 8, 9]


def test_a_layer_that_costs_more_loses_more():
    """Two layers of one width and equal weights, one of which runs on 16 times the positions."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.many, self.few, self.head = (
                nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 3)
            )  # fmt: skip

        def forward(self, x):
            x = torch.max_pool2d(torch.relu(self.many(torch.relu(self.enter(x)))), 4)
            return self.head(torch.relu(self.few(x)).mean((2, 3)))

    small = Channels(macs=0.4)(graph_of(Pyramid(), 3, 16, 16))
    remaining = {name: tensor.shape[0] for name, tensor in small.named_parameters() if name.endswith("weight")}
    assert remaining["enter.weight"] + remaining["many.weight"] < 2 * remaining["few.weight"]


def test_no_layer_is_emptied_for_macs():
    graph = graph_of(Convs(), 3, 16, 16)
    with torch.no_grad():  # without this the first layer would be the cheapest all the way
        graph.module.get_parameter("early.weight").mul_(1e-6)
    small = Channels(macs=0.85)(graph)
    assert min(min(tensor.shape) for tensor in small.parameters()) >= 1
    same(small, zeroed(graph, small))


@pytest.mark.parametrize("settings", [{"fraction": 0.4}, {"macs": 0.4}])
def test_widths_stay_multiples(settings):
    graph = graph_of(mlp(8, 48, 30, 4), 8)
    small = Channels(**settings, multiple=8)(graph)
    widths = [
        len(small.kept[name][0]) if name in small.kept else full for name, full in (("0.weight", 48), ("2.weight", 30))
    ]
    assert widths[0] % 8 == 0 and (widths[1] % 8 == 0 or widths[1] == 30)
    same(small, zeroed(graph, small))


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_no_layer_is_stripped_to_make_up_for_coarse_steps(share):
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    graph = graph_of(model, 1, 16, 16)
    small = Channels(macs=share, multiple=8)(graph)
    assert small.module.get_parameter("7.weight").shape[0] >= 88
    reached = 1 - small.cost().macs / graph.cost().macs
    assert abs(reached - share) < 0.065  # half of what eight filters of the second convolution take
    told = f"prune.Channels: {share} of the MACs asked for, {reached:.3g} gone: widths are multiples of 8"
    assert small.notes == ((told,) if abs(reached - share) > 0.1 * share else ())
    same(small, zeroed(graph, small))


def test_multiples_are_of_widths_not_of_heads():
    small = Channels(0.5, multiple=8)(graph_of(Attention(6, 8), 5, 16))
    assert len(small.kept["qkv.weight"][0]) == 3 * 3 * 8


@functools.cache
def encoder(heads: int):
    layer = nn.TransformerEncoderLayer(64, heads, 128, batch_first=True)
    return graph_of(nn.Sequential(nn.Linear(12, 64), layer, nn.Linear(64, 4)), 5, 12)


@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("settings", [{"fraction": 0.3}, {"fraction": 0.75}, {"macs": 0.3}, {"macs": 0.5}], ids=str)
def test_heads_and_their_width_together_stay_multiples(heads, settings):
    graph = encoder(heads)
    small = Channels(**settings, multiple=16, normalized=False)(graph)
    widths = [small.module.get_parameter(f"1.{name}.weight").shape for name in ("self_attn.out_proj", "linear1")]
    assert {size % 16 for shape in widths for size in shape} == {0} and widths != [(64, 64), (128, 64)]
    same(small, zeroed(graph, small))


def test_a_target_is_a_target():
    with pytest.raises(SettingError, match="Channels"):
        Channels(0.5)(graph_of(mlp(6, 20, 3), 6), None, "cpu")


def test_a_cut_of_a_cut_tells_the_indices_of_the_first_capture():
    graph = graph_of(mlp(6, 20, 3), 6)
    once = Channels(0.5)(graph)
    twice = Channels(0.5)(once)
    kept = twice.kept["0.weight"][0]
    assert len(kept) == 5 and set(kept.tolist()) < set(once.kept["0.weight"][0].tolist())
    assert torch.equal(graph.module.get_parameter("0.weight")[kept], twice.module.get_parameter("0.weight"))


def test_mode_and_gradients_are_those_of_the_input():
    graph = graph_of(nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3)), 6)
    graph.module.get_parameter("0.weight").requires_grad_(False)
    small = Channels(0.5)(graph.train())
    assert small.training and small.module.training
    assert not small.module.get_parameter("0.weight").requires_grad
    assert small.module.get_parameter("3.weight").requires_grad
    small(torch.randn(8, 6))
    assert small.module.get_buffer("1.running_mean").shape == (5,)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "none of fraction, macs, latency, threshold"),
        ({"fraction": 0.5, "macs": 0.4}, "fraction and macs are given"),
        ({"latency": 0.4}, "latency is given alone"),
        ({"macs": 0.4, "costs": CostTable({})}, "costs are given alone"),
        ({"fraction": 0.0}, "fraction=0"),
        ({"fraction": 1}, "fraction=1"),
        ({"macs": -0.1}, "macs=-0.1"),
        ({"macs": 1.5}, "macs=1.5"),
        ({"macs": float("nan")}, "macs=nan"),
        ({"fraction": True}, "fraction=True"),
        ({"fraction": "half"}, "fraction='half'"),
        ({"fraction": 0.5, "importance": 3}, "can't be called"),
        ({"fraction": 0.5, "importance": "magnitud"}, "did you mean 'magnitude'"),
        ({"fraction": 0.5, "multiple": 0}, "multiple=0"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(SettingError, match=words):
        Channels(**settings)


def test_a_layer_cut_to_nothing_is_refused_with_the_fraction_that_fits():
    graph = graph_of(mlp(6, 20, 4, 3), 6)
    with pytest.raises(SettingError, match=r"at most 0\.87") as refused:
        Channels(0.95)(graph)
    assert "4" in refused.value.what
    small = Channels(0.87)(graph)
    assert small.module.get_parameter("2.weight").shape[0] == 1


def test_macs_that_can_not_go_are_refused_with_the_share_that_fits():
    graph = graph_of(mlp(6, 4, 3), 6)
    with pytest.raises(SettingError, match=r"use macs=0\.75 or less"):
        Channels(macs=0.9)(graph)
    assert Channels(macs=0.75)(graph).module.get_parameter("0.weight").shape == (1, 6)


def test_macs_too_few_for_any_unit_are_refused_with_the_least():
    graph = graph_of(mlp(6, 4, 3), 6)
    with pytest.raises(SettingError, match=r"the least that can go is 0\.25 of the MACs.*use macs=0\.25 or more"):
        Channels(macs=0.01)(graph)
    assert Channels(macs=0.25)(graph).module.get_parameter("0.weight").shape == (3, 6)


def test_multiples_that_leave_nothing_to_cut_are_told():
    graph = graph_of(mlp(6, 8, 3), 6)
    with pytest.raises(SettingError, match=r"multiples of 8.*What to do: a smaller multiple\."):
        Channels(macs=0.5, multiple=8)(graph)
    with pytest.warns(LeanlyWarning, match=r"removed nothing: 0\.5 of .* multiples of 8, .* or a smaller multiple"):
        assert not Channels(0.5, multiple=8)(graph).kept
    with pytest.warns(LeanlyWarning, match=r"removed nothing: 0\.01 of .*a larger fraction\."):
        assert not Channels(0.01)(graph).kept


def test_an_importance_that_says_nothing_is_refused():
    with pytest.raises(SettingError, match="it finds nothing in this network"):
        Channels(0.5, importance=lambda graph, task: {})(graph_of(mlp(6, 8, 3), 6))


def test_a_module_is_no_graph():
    with pytest.raises(SettingError, match=r"a Sequential was given where a Graph is needed.*leanly\.capture"):
        Channels(0.5)(mlp(6, 8, 3))  # type: ignore[arg-type]


class Ranked(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 20), nn.Linear(20, hidden), nn.Linear(hidden, 3)

    def forward(self, x):
        return self.three(torch.relu(self.two(torch.sort(self.one(x), -1)[0])))


@pytest.mark.parametrize("settings", [{"fraction": 0.5}, {"macs": 0.6}])
def test_a_cut_that_falls_short_says_what_holds(settings):
    graph = graph_of(Ranked(8), 6)
    with pytest.warns(
        LeanlyWarning, match=r"aten\.sort\.default at .*test_channels\.py.* keeps one\.weight, one\.bias"
    ):
        small = Channels(**settings)(graph)
    assert "aten.sort.default" in small.notes[-1] and "one.weight" not in small.kept
    assert len(small.kept["two.weight"][0]) < 8
    same(small, zeroed(graph, small))


def test_everything_frozen_names_the_operators():
    graph = graph_of(nn.Sequential(nn.Linear(6, 10), nn.Softmax(-1), nn.Linear(10, 3)), 6)
    with pytest.raises(SettingError, match=r"nothing can be removed: aten\.softmax\.int .*keeps 0\.weight, 0\.bias"):
        Channels(0.5)(graph)
    with pytest.raises(SettingError, match="inputs and outputs hold every dimension"):
        Channels(macs=0.5)(graph_of(nn.Linear(6, 3), 6))


def test_without_what_norms_run_over():
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm, self.two, self.three = (
                nn.Linear(6, 10),
                nn.LayerNorm(10),
                nn.Linear(10, 8),
                nn.Linear(8, 3),
            )

        def forward(self, x):
            return self.three(torch.relu(self.two(self.norm(self.one(x)))))

    graph = graph_of(Normed(), 6)
    assert [axis.changes_statistics for group in couple(graph).groups for axis in group.axes].count(True) == 1
    assert "norm.weight" in Channels(0.5)(graph).kept
    assert set(Channels(0.5, normalized=False)(graph).kept) == {"two.weight", "two.bias", "three.weight"}


def test_gradient_needs_labels():
    graph = graph_of(mlp(6, 10, 3), 6)
    task = leanly.Task(mlp(6, 10, 3).eval(), example=torch.randn(2, 6))
    for given in (None, task):
        with pytest.raises(DataError, match="needs labelled data"):
            Channels(0.5, importance=gradient)(graph, given)
    for needing in (gradient, fisher):
        bare = leanly.Task(mlp(6, 10, 3).eval(), example=torch.randn(2, 6), train=(torch.randn(40, 6), None))
        told = "needs targets, and the rows have none.*or use leanly.prune.expected_gradient, which needs none"
        with pytest.raises(DataError, match=told):
            Channels(0.5, importance=needing)(graph, bare)
    assert Channels(0.5)(graph, bare).kept


def by_index(graph, task):
    """Count up: the first units leave."""
    return {name: torch.arange(weight.shape[0]).float()[:, None].expand(weight.shape) for name, weight in
            graph.named_parameters() if weight.ndim == 2}  # fmt: skip


def test_an_importance_of_ones_own():
    small = Channels(0.5, importance=by_index)(graph_of(mlp(6, 10, 3), 6))
    assert small.kept["0.weight"][0].tolist() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("criterion", IN_LOSS)
def test_a_wrapped_criterion_counts_as_the_one_inside(criterion):
    torch.manual_seed(0)
    model = mlp(6, 32, 24, 3).eval()
    rows = (torch.randn(60, 6), torch.arange(60) % 3)
    task = leanly.Task(model, example=rows[0][:2], train=rows, loss="cross_entropy")
    graph = capture(model, example=task.example)

    def alike(graph, task):
        return criterion(graph, task)

    def rows_left(importance):
        kept = Channels(macs=0.3, importance=importance)(graph, task).kept
        return [kept[name][0].tolist() for name in ("0.weight", "2.weight")]

    assert rows_left(functools.cache(criterion)) == rows_left(criterion) != rows_left(alike)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1], "returned a list"),
        ({"9.weight": torch.ones(3)}, "no such parameter"),
        ({"0.weight": torch.ones(3)}, r"no tensor of shape \[10, 6\]"),
        ({"0.weight": torch.full((10, 6), torch.nan)}, "negative, NaN or infinite"),
        ({"0.weight": -torch.ones(10, 6)}, "negative, NaN or infinite"),
    ],
)
def test_an_importance_that_is_none(answer, words):
    with pytest.raises(SettingError, match=words):
        Channels(0.5, importance=lambda graph, task: answer)(graph_of(mlp(6, 10, 3), 6))


def test_a_recipe_tells_the_importance_by_its_name():
    recipe = Recipe((Channels(0.5), Channels(macs=0.4, importance="gradient", multiple=8, normalized=False)))
    told = json.loads(json.dumps(recipe.to_json()))
    assert [entry["importance"] for entry in told] == [None, "gradient"]
    assert Recipe.from_json(told) == recipe and recipe.portable
    assert recipe.passes[1].importance is gradient  # type: ignore[attr-defined]


def test_a_recipe_with_ones_own_importance_says_that_it_is_not_portable():
    recipe = Recipe((Channels(0.5, importance=by_index),))
    told = json.loads(json.dumps(recipe.to_json()))
    assert not recipe.portable
    with pytest.raises(SettingError, match=r"not portable: importance of prune\.Channels was .*by_index"):
        Recipe.from_json(told)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Channels(0.5).macs = 0.4  # type: ignore[misc]


def test_the_public_names():
    assert leanly.prune.Channels is Channels and leanly.prune.magnitude is magnitude


def test_a_quantized_graph_can_be_cut():
    model = scrambled(Convs())
    x = torch.randn(8, 3, 16, 16)
    task = leanly.Task(model, example=x[:2], train=(x, torch.randint(0, 5, (8,))))
    int8 = leanly.quantize.Static()(capture(model, example=x[:2]), task)
    small = Channels(0.5)(int8)
    widths = {name: tuple(tensor.shape[:2]) for name, tensor in small.named_parameters() if name.endswith("weight")}
    assert widths == {"early.weight": (6, 3), "late.weight": (20, 6), "head.weight": (5, 20)}
    assert small(x).shape == (8, 5) and bool(torch.isfinite(small(x)).all())


def test_a_share_of_the_time_leaves_where_time_is_to_be_gained(convs):
    widths = layer_widths(convs)
    costs = {name: ((outputs / 2, terms / 2, 0.25), (outputs, terms, 1.0)) for name, (outputs, terms) in widths.items()}
    flat = Channels(latency=0.5, costs=CostTable(costs))(convs)
    outputs, terms = widths["conv2d_1"]
    costs["conv2d_1"] = ((outputs / 2, terms / 2, 1.0), (outputs, terms, 1.0))  # it takes as long at any width
    table = CostTable(costs)
    small = Channels(latency=0.5, costs=table)(convs)
    whole, left = (sum(table.seconds(name, *two) for name, two in layer_widths(g).items()) for g in (convs, small))
    assert 1 - left / whole == pytest.approx(0.5, rel=0.1)
    assert math.prod(layer_widths(small)["conv2d"]) < math.prod(layer_widths(flat)["conv2d"])


def test_a_recipe_keeps_the_costs():
    recipe = Recipe(
        (Channels(latency=0.3, costs=CostTable({"conv": ((1.0, 2.0, 3.0), (3.0, 4.0, 5.0))}, "this machine")),)
    )
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(("multiple", "fits"), [(1, 0.93), (4, 0.75), (8, 0.5)])
def test_the_fraction_that_is_said_to_fit_does(multiple, fits):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 64, 3), nn.Flatten(), nn.Linear(64 * 16, 4))
    graph = capture(model.eval(), example=torch.randn(2, 3, 8, 8))
    with pytest.raises(SettingError, match=f"use a fraction of at most {fits:g}"):
        Channels(fraction=fits + 0.02, multiple=multiple)(graph)
    assert Channels(fraction=fits, multiple=multiple)(graph).kept["2.weight"]
    narrow = graph_of(mlp(6, 8, 3), 6)
    with pytest.raises(SettingError, match=r"nothing of 1 of 1 groups.*use a smaller multiple, or macs="):
        Channels(fraction=0.8, multiple=8)(narrow)


def test_where_norms_run_over_all_that_could_go_this_is_said():
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    graph = capture(model, example=torch.randn(2, 6))
    with pytest.raises(SettingError, match=r"no norm or mean runs over.*normalized=True"):
        Channels(fraction=0.5, normalized=False)(graph)
    assert Channels(fraction=0.5)(graph).kept["0.weight"]


def test_a_threshold_takes_what_is_weaker_than_the_mean_unit():
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.fill_(1.0)
        for row in (2, 5, 7):
            model[0].weight[row] = 0.01
            model[2].weight[:, row] = 0.01
    graph = capture(model, example=torch.randn(2, 6))
    small = Channels(threshold=0.1)(graph)
    assert small.kept["0.weight"][0].tolist() == [0, 1, 3, 4, 6, 8, 9]
    assert {name for name, kept in small.kept.items() if kept} == {"0.weight", "0.bias", "2.weight"}
    assert not any("asked for" in note for note in small.notes)
    assert len(Channels(threshold=0.1, multiple=4)(graph).kept["0.weight"][0]) == 8
    with pytest.warns(LeanlyWarning, match="no unit holds less than 0.1 of the mean unit's importance.*larger"):
        Channels(threshold=0.1)(small)


@pytest.mark.parametrize("wrong", [{"threshold": 1.0}, {"threshold": 0.5, "macs": 0.5}])
def test_a_threshold_is_one_of_the_ways(wrong):
    with pytest.raises(SettingError, match="threshold"):
        Channels(**wrong)

"""Static: where quantizers stand, what it refuses, and that it changes nothing it was given."""

import dataclasses

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, LeanlyWarning, SettingError
from leanly.graph import Graph
from leanly.quantize import GPTQ, Binary, CorrectBias, Equalize, Mixed, Smooth, Static, WeightsOnly
from leanly.recipe import Recipe
from tests.once import once

FAKE = torch.ops.leanly.fake_quantize.default


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.norm(self.one(x)))
        b = torch.max_pool2d(torch.relu(a + self.two(a)), 2)
        return self.head(b.view(-1, 8 * 16))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        h = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.out(h.transpose(1, 2).reshape(x.shape[0], x.shape[1], 16))


@once
def block() -> tuple[Graph, leanly.Task]:
    model, x = Block().eval(), torch.randn(40, 3, 8, 8)
    return leanly.capture(model, example=(x[:2],)), leanly.Task(
        model, example=(x[:2],), train=(x, torch.arange(40) % 4)
    )


def quantized_values(graph: Graph) -> list[str]:
    return [str(n.args[0].name) for n in graph.module.graph.nodes if n.target is FAKE and n.args[0].op != "get_attr"]


@pytest.mark.parametrize("kernels", ["onnxruntime", "openvino"])
def test_quantizers_start_and_end_the_kernels(kernels):
    graph, task = block()
    values = quantized_values(Static(kernels=kernels)(graph, task))
    assert values == ["x", "relu", "conv2d_1", "relu_1"], "input, both sides of the sum, and its end; the pool moves"


def test_the_input_graph_is_not_changed():
    graph, task = block()
    before = graph.fingerprint()
    Static()(graph, task)
    assert graph.fingerprint() == before


def test_batch_norm_is_folded_exactly():
    graph, _ = block()
    for tensor in graph.buffers():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    folded = leanly.quantize.static.fold_batch_norm(graph)
    assert not any("batch_norm" in str(node.target) for node in folded.module.graph.nodes)
    x = torch.randn(5, 3, 8, 8)
    graph.eval()
    assert torch.allclose(folded(x), graph(x), atol=1e-5)


@pytest.mark.parametrize("boolean", [True, False])
def test_attention_is_written_out_exactly_and_quantized(boolean):
    torch.manual_seed(1)
    model, x = Attention().eval(), torch.randn(12, 6, 16)
    mask = torch.ones(12, 6, dtype=torch.bool)
    mask[:, 4:] = False
    given = mask if boolean else torch.where(mask, 0.0, -1e4)
    graph = leanly.capture(model, example=(x[:2], given[:2]))
    task = leanly.Task(
        model, example=(x[:2], given[:2]), train=((x, given), torch.randn(12, 6, 16)), metric="mse", loss="mse"
    )
    expanded = leanly.quantize.static.expand_attention(graph)
    assert not any("scaled_dot" in str(node.target) for node in expanded.module.graph.nodes)
    assert torch.allclose(expanded(x, given), graph(x, given), atol=1e-5)
    whole = Static(attention=True)(graph, task)
    products = [n for n in whole.module.graph.nodes if n.target is torch.ops.aten.matmul.default]
    assert len(products) == 2
    assert len(quantized_values(whole)) > len(quantized_values(Static(attention=False)(graph, task)))


def test_fewer_bits_lose_more():
    graph, task = block()
    x = torch.randn(30, 3, 8, 8)
    graph.eval()
    errors = [
        float((Static(weights=b, activations=b)(graph, task)(x) - graph(x)).detach().pow(2).mean())
        for b in (8, 6, 4, 2)
    ]
    assert errors == sorted(errors) and errors[0] < errors[1] / 4


def test_float_nodes_stay_float():
    graph, task = block()
    quantized = Static(float_nodes=("conv2d_1",))(graph, task)
    layer = next(node for node in quantized.module.graph.nodes if node.name == "conv2d_1")
    assert layer.args[1].op == "get_attr"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": 1}, "weights=1 bits"),
        ({"activations": 9}, "activations=9 bits"),
        ({"observer": "median"}, "no observer 'median'"),
        ({"granularity": "row"}, "granularity 'row'"),
        ({"kernels": "tflite"}, "no integer kernels are known"),
        ({"samples": 0}, "samples is 0"),
        ({"layer_bits": ("conv2d", 4)}, r"layer_bits is \('conv2d', 4\)"),
        ({"weight_bits": 4}, "weight_bits is 4"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(SettingError, match=words):
        Static(**settings)


def test_a_layer_that_does_not_exist_shows_the_nearest():
    graph, task = block()
    with pytest.raises(SettingError, match="conv2d_1"):
        Static(float_nodes=("conv2d_11",))(graph, task)


@pytest.mark.parametrize(
    "method", [Static(), WeightsOnly(group=16), Binary(), Mixed()], ids=lambda one: type(one).__name__
)
def test_integers_are_made_of_float32_alone(method):
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3))).bfloat16().eval()
    x = torch.randn(4, 8, dtype=torch.bfloat16)
    task = leanly.Task(model, example=x, train=(x, torch.arange(4)))
    with pytest.raises(SettingError, match=r"is bfloat16.*model.float\(\)"):
        method(leanly.capture(model, example=x), task)


@pytest.mark.parametrize(
    "method", [Static(), WeightsOnly(), Binary(), Mixed(), Smooth(), Equalize()], ids=lambda one: type(one).__name__
)
def test_what_is_quantized_already_is_refused(method):
    graph, task = block()
    with pytest.raises(SettingError, match=r"is quantized already.*float graph"):
        method(Static()(graph, task), task)


def test_bits_by_layer_are_pairs_or_a_dict_and_names_a_tuple():
    graph, task = block()
    assert Static(layer_bits={"conv2d_1": 4}) == Static(layer_bits=(("conv2d_1", 4),))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"float_nodes is 'conv2d_1'.*\('conv2d_1',\)"):
        Static(float_nodes="conv2d_1")(graph, task)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="samples is 'a'"):
        Static(samples="a")  # type: ignore[arg-type]


def test_nothing_to_quantize():
    graph = leanly.capture(nn.ReLU().eval(), example=(torch.randn(2, 3),))
    task = leanly.Task(
        nn.ReLU().eval(), example=(torch.randn(2, 3),), train=(torch.randn(4, 3), torch.randn(4, 3)), metric="mse"
    )
    with pytest.raises(SettingError, match="nothing to quantize"):
        Static()(graph, task)


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up, self.head = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2, 2), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.up(self.conv(x))).mean((2, 3)))


def test_what_has_no_integer_kernel_is_named():
    x = torch.randn(8, 3, 8, 8)
    graph = leanly.capture(Upsampling().eval(), example=(x[:2],))
    task = leanly.Task(Upsampling().eval(), example=(x[:2],), train=(x, torch.zeros(8, dtype=torch.long)))
    assert [note for note in Static()(graph, task).notes if "conv_transpose2d (" in note]
    with pytest.raises(SettingError, match=r"nothing to quantize.*conv_transpose2d.*shorten float_nodes"):
        Static(float_nodes=("conv2d", "linear"))(graph, task)
    graph, task = block()
    assert not Static()(graph, task).notes, "all that multiplies is integer"


def test_bits_for_what_has_no_integer_weights_are_refused():
    graph, task = block()
    with pytest.raises(SettingError, match=r"layer_bits names 'relu', whose weights are not quantized.*conv2d, "):
        Static(layer_bits={"relu": 4})(graph, task)
    with pytest.raises(SettingError, match=r"float_nodes names 'x', which is no node"):
        Static(float_nodes=("x",))(graph, task)
    with pytest.raises(SettingError, match=r"'linear_0', which is no node.*did you mean 'linear'"):
        Static(float_nodes=("linear_0",))(graph, task)
    with pytest.raises(SettingError, match=r"named, not modules: what 'head' holds is read by linear\."):
        Static(float_nodes=("head",))(graph, task)


def test_bits_of_a_layer_that_stays_float_or_is_named_twice_are_refused():
    graph, task = block()
    for setting in ("layer_bits", "weight_bits"):
        with pytest.raises(SettingError, match=rf"'conv2d' is both in {setting} and in float_nodes"):
            Static(**{setting: {"conv2d": 4}}, float_nodes=("conv2d",))(graph, task)
        with pytest.raises(SettingError, match=rf"{setting} names a layer twice"):
            Static(**{setting: (("conv2d", 4), ("conv2d", 6))})


class Given(nn.Module):
    """Its second layer multiplies with what the first gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return nn.functional.conv2d(x, self.second.weight * x.mean())


def test_a_weight_that_depends_on_the_input_is_named():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    graph = leanly.capture(Given().eval(), example=(x[:2],))
    task = leanly.Task(graph, example=(x[:2],), train=(x, None), metric="mse", loss="mse")
    (note,) = Static()(graph, task).notes
    assert "in float, since their weights depend on what the network is given: conv2d_1 (" in note


class Learned(nn.Module):
    """A learned query goes through a layer of its own; another parameter is added to a layer's outputs."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.query, self.shift = nn.Parameter(torch.randn(*shape)), nn.Parameter(torch.randn(8))
        self.of_query, self.of_rows, self.head = nn.Linear(8, 8), nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.of_rows(x) + self.shift.view(1, -1, 1, 1)).mean((2, 3))
        return self.head(x * self.of_query(self.query))


@pytest.mark.parametrize("shape", [(8,), (1, 8)])
@pytest.mark.parametrize(
    "passes",
    [
        (Smooth(), Static(), GPTQ(samples=16)),
        (WeightsOnly(group=16, bits=8, embeddings=False), GPTQ(samples=16)),
        (Static(), CorrectBias(samples=16)),
        (Mixed(average=6.0, choices=(4, 8)),),
    ],
    ids=lambda passes: "+".join(type(one).__name__ for one in passes),
)
def test_what_parameters_alone_give_is_no_activation(passes: tuple, shape: tuple[int, ...]):
    torch.manual_seed(0)
    model, x = Learned(shape).eval(), torch.randn(64, 3, 8, 8)
    model.of_query, model.head = nn.Linear(shape[-1], 8), nn.Linear(8, 4)
    if isinstance(passes[0], WeightsOnly):
        model.query = nn.Parameter(torch.randn(*shape[:-1], 16))
        model.of_query = nn.Linear(16, 8)
    graph = leanly.capture(model.eval(), example=(x[:2],))
    task = leanly.Task(model, example=(x[:2],), train=(x, None), metric="mse", loss="mse")
    quantized = Recipe(passes)(graph, task)
    wanted = graph(x).detach()
    assert float((quantized(x).detach() - wanted).square().mean()) < 0.01 * float(wanted.square().mean())
    if isinstance(passes[0], Smooth):
        assert any("read nothing but parameters: linear" in note for note in quantized.notes)


def test_zeros_are_no_calibration_rows():
    graph, _ = block()
    rows = torch.zeros(8, 3, 8, 8)
    zeros = leanly.Task(Block().eval(), example=(rows[:2],), train=(rows, torch.arange(8) % 4))
    with pytest.warns(LeanlyWarning, match="Input x is zero throughout"):
        Static()(graph, zeros)
    with pytest.raises(SettingError, match="a str was given where a Task is needed"):
        Static()(graph, "rows")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="a str was given where a Target is needed"):
        Static()(graph, zeros, "cpu")  # type: ignore[arg-type]


def test_no_data():
    with pytest.raises(DataError, match="calibration needs data"):
        Static()(block()[0])


def test_a_recipe_is_data():
    recipe = Recipe((Static(observer="percentile", float_nodes=("conv2d",)),))
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(SettingError, match=r"quantize\.Nothing"):
        Recipe.from_json([{"pass": "quantize.Nothing"}])
    with pytest.raises(SettingError, match="other settings"):
        Recipe.from_json([{"pass": "quantize.Static", "colour": 1}])


def test_gradients_pass_straight_through_inside_the_range():
    graph, task = block()
    quantized = Static()(graph, task)
    x = torch.randn(4, 3, 8, 8)
    quantized(x).sum().backward()
    for name, parameter in quantized.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Static().weights = 4  # type: ignore[misc]


def test_a_layer_used_twice_has_one_weight_quantizer():
    torch.manual_seed(0)
    shared = nn.Linear(8, 8)
    model, x = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(64, 8)
    graph = leanly.capture(model, example=(x[:2],))
    int8 = Static()(graph, leanly.Task(model, example=(x[:2],), train=(x, torch.arange(64) % 3)))
    weights = [n for n in int8.module.graph.nodes if n.target is FAKE and n.args[0].op == "get_attr"]
    assert len(weights) == 2, "one for the shared layer, one for the head"
    assert torch.allclose(int8(x), graph(x), atol=0.1)


def bits_of(graph: Graph) -> dict[str, int]:
    return {
        str(node.args[1].target).split(".")[1]: (node.args[5] - node.args[4]).bit_length()
        for node in graph.module.graph.nodes
        if node.target is FAKE
    }


def test_layers_have_bits_of_their_own():
    graph, task = block()
    plain = bits_of(Static(weights=4, activations=4, kernels="openvino")(graph, task))
    weights = {"one_weight", "two_weight", "head_weight"}
    few = {name for name, bits in plain.items() if bits == 4}
    assert few == weights | {"x", "conv2d_1_input", "relu_1"}, "weights and what they multiply"
    assert {name: bits for name, bits in plain.items() if name not in few} == {"relu": 8, "conv2d_1": 8}, (
        "what is added"
    )
    mixed = bits_of(Static(weights=4, activations=4, layer_bits=(("conv2d_1", 8),), kernels="openvino")(graph, task))
    assert mixed.pop("two_weight") > 4
    del plain["two_weight"], plain["conv2d_1_input"]
    assert mixed == plain, "it reads what is added, in the same bits"


def test_first_and_last_layer_may_have_more_bits():
    graph, task = block()
    ends = bits_of(Static(weights=2, activations=2, end_bits=8, kernels="openvino")(graph, task))
    assert ends["one_weight"] == ends["head_weight"] == 8
    assert ends["x"] == 8
    assert ends["two_weight"] == ends["conv2d_1_input"] == 2


def test_bits_of_a_layer_that_is_not_there_name_the_nearest():
    graph, task = block()
    with pytest.raises(SettingError, match=r"layer_bits names 'conv2d_9'.*conv2d_1"):
        Static(layer_bits=(("conv2d_9", 8),))(graph, task)
    with pytest.raises(SettingError, match="end_bits=9"):
        Static(end_bits=9)
    step = Static(layer_bits=(("conv2d", 4),))
    assert Recipe.from_json(Recipe((step,)).to_json()).passes == (step,)

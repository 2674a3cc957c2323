import pytest
import torch
from torch import nn

from leanly.errors import CaptureError, SettingError
from leanly.graph import capture
from tests.graph.models import SeedCNN

HERE = r"test_capture_errors\.py:\d+: "


def test_a_branch_on_a_value_names_the_line_and_the_remedy(capfd):
    class Branch(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x * 2
            return x

    with pytest.raises(CaptureError, match=HERE + r"if x\.sum\(\) > 0:.*torch\.where"):
        capture(Branch().eval(), example=torch.randn(2, 3))
    assert capfd.readouterr() == ("", "")


def test_an_item_names_the_line():
    class Item(nn.Module):
        def forward(self, x):
            count = int(x.abs().max().item()) + 1
            return x[:, :count]

    with pytest.raises(CaptureError, match=HERE + r"count = int"):
        capture(Item().eval(), example=torch.randn(2, 3))


def test_a_fixed_batch_names_what_fixes_it():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 3, 2).sum(-1)

    with pytest.raises(CaptureError, match=r"fixes a dimension.*" + HERE + r"return x\.reshape\(2, 3, 2\)"):
        capture(Fixed().eval(), example=torch.randn(2, 6))


def test_an_example_that_does_not_fit_names_the_line_and_the_shapes():
    with pytest.raises(CaptureError, match=r"x float32 \[2, 3, 28, 28\].*models\.py:\d+: .*self\.conv1\(x\)"):
        capture(SeedCNN().eval(), example=torch.randn(2, 3, 28, 28))


def test_integer_images_are_told():
    with pytest.raises(CaptureError, match=r"uint8.*\.float\(\)"):
        capture(SeedCNN().eval(), example=torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_weight_is_named_with_its_index(value: float):
    model = SeedCNN().eval()
    with torch.no_grad():
        model.fc1.weight[3, 5] = value
    with pytest.raises(CaptureError, match=r"fc1\.weight holds (nan|inf) at index \[3, 5\]"):
        capture(model, example=torch.randn(2, 1, 28, 28))


def test_a_model_on_another_device():
    with pytest.raises(CaptureError, match=r"conv1\.weight is on meta.*x on cpu"):
        capture(SeedCNN().eval().to("meta"), example=torch.randn(2, 1, 28, 28))


@pytest.mark.parametrize(
    ("example", "match"),
    [((), "no tensor"), ((3,), "no tensor"), ("text", "is a str"), ((torch.zeros(0, 1, 28, 28),), "no rows"),
     (({"a": {1, 2}},), "neither a tensor")],
)  # fmt: skip
def test_an_example_without_inputs(example, match):
    with pytest.raises(CaptureError, match=match):
        capture(SeedCNN().eval(), example=example)


def test_a_name_that_no_input_has():
    with pytest.raises(CaptureError, match=r"no input named 'y'.*inputs are x"):
        capture(SeedCNN().eval(), example=torch.randn(2, 1, 28, 28), dynamic={"y": {1: "length"}})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"dynamic": {"input": "length"}}, r"dynamic\['input'\] is 'length'.*give \{'input': \{1: \"length\"\}\}"),
        ({"dynamic": {"input": {9: "length"}}}, r"2 dimensions, not a dimension 9.*name one from 1 to 1"),
    ],
)
def test_dimensions_that_vary_are_named_by_number(settings, match):
    with pytest.raises(CaptureError, match=match):
        capture(nn.Linear(4, 2).eval(), example=torch.randn(2, 4), **settings)


def test_static_inputs_are_a_tuple():
    with pytest.raises(SettingError, match=r"static is 'input'.*\('input',\)"):
        capture(nn.Linear(4, 2).eval(), example=torch.randn(2, 4), static="input")


def test_a_dimension_that_can_not_vary():
    with pytest.raises(CaptureError, match="fixes a dimension that must vary"):
        capture(nn.Linear(4, 2).eval(), example=torch.randn(2, 4), dynamic={"input": {1: "width"}})


def test_a_recurrent_layer_has_one_length():
    with pytest.raises(CaptureError, match=r"recurrent layer.*pad"):
        capture(nn.GRU(4, 5, batch_first=True).eval(), example=torch.randn(2, 6, 4), dynamic={"input": {1: "length"}})


def test_an_output_that_is_no_tensor():
    class Strange(nn.Module):
        def forward(self, x):
            return {"a": x, "b": {1, 2}}

    with pytest.raises(CaptureError, match=r"output of the model.*neither a tensor.*return tensors"):
        capture(Strange().eval(), example=torch.randn(2, 3))


def test_random_numbers_in_evaluation_are_a_mismatch_told():
    state = [0.0]

    class Drifts(nn.Module):
        def forward(self, x):
            state[0] += 1.0
            return x + state[0]

    with pytest.raises(CaptureError, match=r"output output at batch size 2 is off by"):
        capture(Drifts().eval(), example=torch.zeros(2, 3))


def test_torch_cond_is_refused_with_the_line():
    class Cond(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))

    with pytest.raises(CaptureError, match="cond"):
        capture(Cond().eval(), example=torch.randn(2, 3))


def test_an_exported_program_with_a_fixed_batch():
    program = torch.export.export(nn.Linear(4, 2), (torch.randn(2, 4),))
    with pytest.raises(CaptureError, match=r"fixed at 2.*dynamic_shapes"):
        capture(program, example=torch.randn(2, 4))


def test_what_is_no_model():
    with pytest.raises(CaptureError, match="model is a str"):
        capture("model", example=torch.randn(2, 3))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_a_hook_computed_are_no_hindrance():
    model, x = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 8)), nn.ReLU()).eval(), torch.randn(2, 6)
    model(x).sum().backward()
    graph = capture(model, example=(x,))
    assert model[0].weight.requires_grad and "0.weight_v" in dict(graph.named_parameters())
    torch.testing.assert_close(graph(x), model(x))


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(6, 8), []

    def forward(self, x):
        self.seen.append(self.layer(x))
        return self.seen.pop() if not torch.is_grad_enabled() else self.seen[-1]


def test_what_keeps_gradients_is_told_how_to_rest():
    model, x = Keeps().eval(), torch.randn(2, 6)
    model(x)
    with pytest.raises(CaptureError, match=r"can't be copied.*run the model once under torch\.no_grad"):
        capture(model, example=(x,))
    model.seen.clear()
    with torch.no_grad():
        torch.testing.assert_close(capture(model, example=(x,))(x), model(x))

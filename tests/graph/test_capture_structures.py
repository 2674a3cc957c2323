from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from leanly.errors import CaptureError, DataError
from leanly.graph import capture
from tests.graph.models import close


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, image, text=None):
        both = self.left(image) + self.right(text)
        return both, both.softmax(-1)


@dataclass
class Answer:
    score: Tensor
    hidden: tuple[Tensor, Tensor] | None = None


def test_two_inputs_two_outputs():
    model = Two().eval()
    graph = capture(model, example=(torch.randn(2, 4), torch.randn(2, 6)))
    assert [spec.name for spec in graph.inputs] == ["image", "text"]
    assert [spec.name for spec in graph.outputs] == ["output_0", "output_1"]
    a, b = torch.randn(5, 4), torch.randn(5, 6)
    found = graph(a, b)
    assert isinstance(found, tuple)
    for one, other in zip(found, model(a, b), strict=True):
        close(one, other)
    assert len(graph.flat(a, b)) == 2


def test_keyword_inputs_in_any_order():
    model = Two().eval()
    graph = capture(model, example={"text": torch.randn(2, 6), "image": torch.randn(2, 4)})
    assert [spec.name for spec in graph.inputs] == ["text", "image"]
    a, b = torch.randn(5, 4), torch.randn(5, 6)
    close(graph(image=a, text=b)[0], model(a, b)[0])
    with pytest.raises(DataError, match="captured with"):
        graph(a, b)


def test_nested_input_and_dict_output_with_none():
    class Nested(nn.Module):
        def forward(self, batch, scale):
            return {"sum": batch["a"] + batch["b"][0], "none": None, "pair": [batch["a"] * scale, batch["b"][1]]}

    model = Nested().eval()
    example = ({"a": torch.randn(2, 3), "b": (torch.randn(2, 3), torch.randn(2, 1))}, torch.randn(2, 1))
    graph = capture(model, example=example)
    assert [spec.name for spec in graph.inputs] == ["batch_a", "batch_b_0", "batch_b_1", "scale"]
    assert [spec.name for spec in graph.outputs] == ["sum", "pair_0", "pair_1"]
    found = graph(*example)
    assert found["none"] is None and isinstance(found["pair"], list)
    close(found["sum"], example[0]["a"] + example[0]["b"][0])
    close(found["pair"][1], example[0]["b"][1])


def test_a_dataclass_comes_out_as_a_dict():
    class Answers(nn.Module):
        def forward(self, x):
            return Answer(x * 2, (x, x + 1))

    graph = capture(Answers().eval(), example=torch.randn(2, 3))
    x = torch.randn(4, 3)
    found = graph(x)
    assert set(found) == {"score", "hidden"}
    close(found["hidden"][1], x + 1)
    assert [spec.name for spec in graph.outputs] == ["score", "hidden_0", "hidden_1"]


def test_none_and_numbers_among_the_inputs_stay_what_they_were():
    class Optional(nn.Module):
        def forward(self, x, mask=None, power=1, flag=True):
            x = x**power
            return x if mask is None else x * mask

    graph = capture(Optional().eval(), example=(torch.randn(2, 3), None, 3))
    x = torch.randn(4, 3)
    close(graph(x, None, 3), x**3)
    with pytest.raises(DataError):
        graph(x, None, 2)


def test_static_input_has_no_batch():
    class Table(nn.Module):
        def forward(self, x, table):
            return x @ table

    graph = capture(Table().eval(), example=(torch.randn(2, 3), torch.randn(3, 5)), static=("table",))
    assert graph.inputs[1].shape == (3, 5)
    x, table = torch.randn(7, 3), torch.randn(3, 5)
    close(graph(x, table), x @ table)
    assert graph.example_batch(6)[1].shape == (3, 5)
    with pytest.raises(CaptureError, match=r"different sizes in dimension 0.*static"):
        capture(Table().eval(), example=(torch.randn(2, 3), torch.randn(3, 5)))


def test_an_input_given_back_and_an_output_given_twice():
    class Same(nn.Module):
        def forward(self, x):
            y = x + 1
            return x, y, y

    graph = capture(Same().eval(), example=torch.randn(2, 3))
    x = torch.randn(4, 3)
    found = graph(x)
    assert torch.equal(found[0], x) and torch.equal(found[1], found[2])

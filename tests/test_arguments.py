import pytest
import torch
from torch import nn

from leanly.arguments import Arguments
from leanly.errors import DataError

X, Y = torch.zeros(2, 3), torch.ones(2, 4)


class Two(nn.Module):
    def forward(self, first, second, scale=1.0, mask=None):
        return first.sum(1) + second.sum(1)


class Anything(nn.Module):
    def forward(self, *tensors, **named):
        return sum(tensor.sum(1) for tensor in (*tensors, *named.values()))


def test_a_tensor_or_tuple_goes_by_position_and_bears_the_names_of_forward():
    assert Arguments(Two(), X).names == ["first"]
    two = Arguments(Two(), (X, Y))
    assert two.names == ["first", "second"]
    args, kwargs = two.call()
    assert args[0] is X
    assert args[1] is Y
    assert kwargs == {}


def test_a_dict_goes_by_keyword():
    named = Arguments(Two(), {"second": Y, "first": X})
    assert named.names == ["second", "first"]
    assert named.call()[0] == ()
    assert list(named.call()[1]) == ["second", "first"]


def test_inputs_without_a_name_are_numbered():
    assert Arguments(Anything(), (X, Y)).names == ["input_0", "input_1"]
    assert Arguments(Anything(), {"a": X}).names == ["a"]


def test_nested_inputs_are_named_below_their_parameter():
    assert Arguments(Two(), (X, (X, Y))).names == ["first", "second_0", "second_1"]


def test_an_exported_program_names_its_inputs():
    program = torch.export.export(Two(), (X, Y))
    assert Arguments(program, (X, Y)).names == ["first", "second"]


def test_constants_and_static_inputs_come_from_the_example():
    mask = torch.zeros(7)
    arguments = Arguments(Two(), (X, Y, 2.0, mask), static=("mask",))
    assert [name for name, _ in arguments.batched] == ["first", "second"]
    rows = [torch.zeros(5, 3), torch.zeros(5, 4)]
    args, kwargs = arguments.bind(arguments.complete(arguments.rows(tuple(rows), "here")))
    assert args[0] is rows[0]
    assert args[1] is rows[1]
    assert args[2] == 2.0
    assert args[3] is mask
    assert kwargs == {}


def test_static_inputs_may_stand_in_the_data_and_are_not_read():
    arguments = Arguments(Two(), {"first": X, "mask": torch.zeros(7), "second": Y}, static=("mask",))
    for inputs in ({"second": Y, "first": X}, {"first": X, "mask": torch.zeros(9), "second": Y}):
        assert [list(tensor.shape) for tensor in arguments.rows(inputs, "here")] == [[2, 3], [2, 4]]
    by_position = Arguments(Two(), (X, Y), static=("first",))
    assert by_position.rows((X, Y), "here") == [Y]


@pytest.mark.parametrize(
    ("example", "static", "why"),
    [
        ((), (), "no tensor that carries a batch"),
        ((None, 3), (), "no tensor that carries a batch"),
        ("x.png", (), "no tensor that carries a batch"),
        (X, ("first",), "no tensor that carries a batch"),
        (object(), (), "a object is neither a tensor"),
        ((X, torch.zeros(3, 4)), (), "different numbers of rows: 'first' has 2, 'second' has 3.*static="),
        ((X, torch.tensor(1.0)), (), "input 'second' of the example has no rows.*static=.'second'"),
        (torch.zeros(0, 3), (), "input 'first' of the example has no rows"),
        (X, ("frist",), "static names 'frist', which is no input.*Where: Task.static.*inputs: first"),
    ],
)
def test_examples_that_can_not_be_used(example, static, why):
    with pytest.raises(DataError, match=f"{why}.*") as caught:
        Arguments(Two(), example, static)
    assert caught.value.where.startswith("Task.")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("example", "inputs", "why"),
    [
        ((X, Y), X, r"holds 1 inputs, the model takes 2 \(first, second\)"),
        ((X, Y), (X, Y, Y), "holds 3 inputs, the model takes 2"),
        ((X, Y), {"first": X, "second": Y}, "given by name, those of the example by position.*first, second"),
        ({"first": X}, X, "given by position, those of the example by name.*a dict with first"),
        ({"first": X, "second": Y}, {"first": X}, "the inputs lack 'second'"),
        ({"first": X}, {"first": X, "token_type_ids": Y}, "the inputs add 'token_type_ids'"),
        ({"first": X}, {"frist": X}, "the inputs lack 'first' and add 'frist'"),
        (X, "text", "holds 0 inputs"),
        (X, (object(),), "neither a tensor"),
    ],
)
def test_rows_that_are_not_like_the_example(example, inputs, why):
    with pytest.raises(DataError, match=why) as caught:
        Arguments(Two(), example).rows(inputs, "split 'train'")
    assert caught.value.where == "split 'train'"
    assert caught.value.remedy

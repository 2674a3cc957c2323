"""What is found of an operator by running it on ids."""

import pytest
import torch

from leanly.graph.coupling.movement import Slot, find_movement
from leanly.graph.coupling.shrinking import Answers, Question, shrunk

aten = torch.ops.aten
X = Slot(0)


def links(target, args, *shapes):
    found = find_movement(target, args, {}, list(shapes))
    return None if found is None else {(link.source, link.inputs, link.outputs) for link in found.links}


def test_a_transpose_links_each_dimension_with_another():
    assert links(aten.transpose.int, (X, 0, 1), (2, 3)) == {(0, (0,), (1,)), (0, (1,), (0,))}


def test_merging_and_splitting():
    assert links(aten.reshape.default, (X, [2, 12]), (2, 3, 4)) == {(0, (0,), (0,)), (0, (1, 2), (1,))}
    assert links(aten.reshape.default, (X, [2, 3, 4]), (2, 12)) == {(0, (0,), (0,)), (0, (1,), (1, 2))}
    assert links(aten.reshape.default, (X, [4, 3]), (3, 4)) == {(0, (0, 1), (0, 1))}


def test_a_concatenation_links_every_source_with_its_part():
    found = find_movement(aten.cat.default, ([X, Slot(1)], 1), {}, [(2, 3), (2, 4)])
    assert found is not None
    index = {(link.source, link.outputs): link.index[0].tolist() for link in found.links if link.index}
    assert index[0, (1,)] == [0, 1, 2, -1, -1, -1, -1] and index[1, (1,)] == [-1, -1, -1, 0, 1, 2, 3]


def test_what_is_filled_in_comes_from_no_source():
    found = find_movement(aten.constant_pad_nd.default, (X, [1, 2]), {}, [(3,)])
    assert found is not None and found.links[0].index is not None
    assert found.links[0].index[0].tolist() == [-1, 0, 1, 2, -1, -1]


def test_a_position_that_is_read_alone():
    found = find_movement(aten.select.int, (X, 1, 2), {}, [(2, 5)])
    assert found is not None and found.read == ((0, 1, 2),)


def test_positions_that_hold_one_source_each():
    found = find_movement(aten.stack.default, ([X, Slot(1)], 1), {}, [(3,), (3,)])
    assert found is not None and found.written == ((0, 1, (0,)), (0, 1, (1,)))


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (aten.sort.default, (X,)),
        (aten.cumsum.default, (X, 0)),
        (aten.add.Tensor, (X, X)),
        (aten.median.default, (X,)),
        (aten.max_pool1d.default, (X, 2)),
        (aten.softmax.int, (X, 0)),
    ],
)
def test_what_computes_is_no_movement(target, args):
    assert find_movement(target, args, {}, [(4, 5)]) is None


@pytest.mark.parametrize(
    ("target", "args", "shapes", "output"),
    [
        (aten.cat.default, ([X, Slot(1)], 1), ((2, 30, 9, 9), (2, 12, 9, 9)), (2, 42, 9, 9)),
        (aten.reshape.default, (X, [2, 7, 3, 4, 5]), ((2, 7, 12, 5),), (2, 7, 3, 4, 5)),
        (aten.slice.Tensor, (X, 2, 1, 9, 3), ((4, 5, 10),), (4, 5, 3)),
        (aten.expand.default, (X, [6, 4, 5]), ((1, 4, 5),), (6, 4, 5)),
        (aten.constant_pad_nd.default, (X, [0, 0, 2, 1]), ((3, 4, 5),), (3, 7, 5)),
        (aten.permute.default, (X, [2, 0, 1]), ((3, 4, 5),), (5, 3, 4)),
    ],
)
def test_a_smaller_question_has_the_same_answer(target, args, shapes, output):
    question = Question(target, args, (), shapes)
    small = shrunk(question, output)
    assert small.shapes != question.shapes
    found = Answers().movement(question, output)
    whole = find_movement(target, args, {}, list(shapes))
    assert found is not None and whole is not None
    assert (found.read, found.written) == (whole.read, whole.written)

    def spelled(movement):
        return sorted(
            (
                link.source, link.inputs, link.output, link.outputs,
                [list(range(shapes[link.source][link.inputs[0]]))]
                if link.index is None
                else [table.tolist() for table in link.index],
            )
            for link in movement.links
        )  # fmt: skip

    assert spelled(found) == spelled(whole)


def test_an_answer_is_found_once():
    answers = Answers()
    first = answers.movement(Question(aten.transpose.int, (X, 1, 2), (), ((2, 5, 6),)), (2, 6, 5))
    again = answers.movement(Question(aten.transpose.int, (X, 1, 2), (), ((2, 8, 9),)), (2, 9, 8))
    assert first is not None and again is not None and len(answers._known) == 1

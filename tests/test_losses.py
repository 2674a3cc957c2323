import pytest
import torch

from leanly.errors import DataError
from leanly.losses import LOSSES, resolve_loss

torch.manual_seed(0)
LOGITS = torch.randn(4, 3)


def test_each_name_gives_a_scalar_with_a_gradient():
    targets = {
        "cross_entropy": torch.tensor([0, 2, 1, 1]),
        "binary_cross_entropy": torch.randint(0, 2, (4, 3)),
        "mse": torch.randn(4, 3),
        "l1": torch.randn(4, 3),
        "kl": torch.randn(4, 3).softmax(1),
    }
    assert set(targets) == set(LOSSES)
    for name, target in targets.items():
        logits = LOGITS.clone().requires_grad_()
        value = resolve_loss(name)({"logits": logits}, target)
        value.backward()
        assert value.shape == ()
        assert logits.grad is not None
        assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16, torch.float32])
def test_class_numbers_of_any_dtype_and_in_a_column_are_the_same_labels(dtype):
    labels = torch.tensor([0, 2, 1, 1])
    expected = LOSSES["cross_entropy"](LOGITS, labels)
    assert LOSSES["cross_entropy"](LOGITS, labels.to(dtype)) == expected
    assert LOSSES["cross_entropy"](LOGITS, labels.to(dtype)[:, None]) == expected


@pytest.mark.parametrize(
    ("logits", "targets", "why"),
    [
        (torch.randn(4, 1), torch.randn(4, 1), "one number a row"),
        (torch.randn(4, 3), torch.randn(4, 3), "neither class numbers nor probabilities"),
        (torch.randn(4, 3), torch.tensor([0.5, 1.0, 2.0, 0.0]), "no whole numbers"),
    ],
)
def test_what_is_no_class_is_not_taken_for_one(logits, targets, why):
    with pytest.raises(DataError, match=rf"{why}.*loss=\"mse\""):
        LOSSES["cross_entropy"](logits, targets)


def test_probabilities_of_classes_are_targets():
    half = LOGITS.softmax(1).bfloat16()
    assert LOSSES["cross_entropy"](LOGITS.bfloat16(), half) > 0


def test_kl_of_a_distribution_from_itself_is_zero():
    assert LOSSES["kl"](LOGITS, LOGITS.softmax(1)).abs() < 1e-6


def test_a_column_and_a_row_of_numbers_do_not_broadcast():
    values, targets = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])
    assert LOSSES["mse"](values, targets) == 2.0
    assert LOSSES["l1"](values, targets) == 1.0


def test_other_shapes_are_refused():
    with pytest.raises(DataError, match=r"outputs have shape \(4, 3\) and targets \(4,\).*targets of the shape"):
        LOSSES["mse"](LOGITS, torch.zeros(4))


def test_binary_labels_may_be_integers():
    assert LOSSES["binary_cross_entropy"](torch.zeros(4, 1), torch.tensor([0, 1, 1, 0])) > 0


def test_a_callable_stays_as_it_is():
    def mine(outputs, targets):
        return outputs.sum()

    assert resolve_loss(mine) is mine
    module = torch.nn.CrossEntropyLoss()
    assert resolve_loss(module) is module


def test_unknown_name():
    with pytest.raises(
        DataError, match=r"no loss named 'crossentropy'.*Where: Task.loss.*did you mean 'cross_entropy'"
    ):
        resolve_loss("crossentropy")


@pytest.mark.parametrize(
    ("loss", "why"), [(3, "isn't callable"), (lambda outputs: 0, "two arguments"), (torch.nn.MSELoss, "is a class")]
)
def test_what_can_not_be_called(loss, why):
    with pytest.raises(DataError, match=f"{why}.*Where: Task.loss.*What to do"):
        resolve_loss(loss)

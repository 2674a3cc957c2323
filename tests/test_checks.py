import math
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from leanly.errors import DataError, LeanlyWarning
from leanly.task import Task

torch.manual_seed(0)
X, Y = torch.randn(90, 4), torch.arange(90) % 3


def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3).eval()


def check(network=None, example=X[:1], **settings):
    Task(network or model(), example, **settings).check()


def refused(why, where, *args, **settings):
    """The message says what, where and what to do."""
    with pytest.raises(DataError, match=why) as caught:
        check(*args, **settings)
    assert where in caught.value.where
    assert caught.value.remedy
    return caught.value


def changed(tensor, place, value):
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


class Rows(Dataset):
    def __init__(self, item, count=90):
        self.item, self.count = item, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


# weights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite(value):
    network = model()
    with torch.no_grad():
        network.weight[2, 1] = value
        network.weight[2, 3] = value
    error = refused(rf"parameter 'weight' is {value} at \[2, 1\] \(2 of 12 values", "parameter 'weight'", network)
    assert "before the training diverged" in error.remedy


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision(dtype):
    network = model().to(dtype)
    told = str(dtype).removeprefix("torch.")
    error = refused(rf"parameter 'weight' is {told}", "parameter 'weight'", network)
    assert "model.float()" in error.remedy


def test_a_buffer_with_nan_is_refused_and_one_with_infinity_is_a_mask():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    network[1].running_var[1] = math.nan
    refused(r"buffer '1.running_var' is nan at \[1\]", "buffer '1.running_var'", network)
    masked = model()
    masked.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    check(masked)


# example


def test_an_example_that_does_not_fit_names_the_user_s_line():
    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, picture):
            return self.layer(picture)  # this line

    error = refused(
        r"example does not fit the model \('picture' float32 \(1, 4\)\): RuntimeError: mat1 and mat2",
        "test_checks.py:",
        Wrong().eval(),
    )
    assert "return self.layer(picture)  # this line" in error.where
    assert "model(*example)" in error.remedy


def test_an_example_with_too_many_inputs():
    refused("does not fit the model .*TypeError", "", model(), (X[:1], X[:1]))


def test_an_integer_image_as_example():
    image = torch.zeros(1, 4, dtype=torch.uint8)
    assert "x.float() / 255" in refused("'input' uint8", "", model(), image).remedy


class Noisy(nn.Module):
    def forward(self, x):
        # 64 draws for each output: with one, both runs would agree in an eighth of the cases
        return nn.functional.dropout(x[:, :3, None].expand(-1, -1, 64), 0.5, training=True).mean(-1)


def test_a_model_that_draws_random_numbers():
    error = refused("other outputs when it is run on the example again", "the model's forward", Noisy().eval())
    assert "random numbers" in error.remedy


def test_a_forward_that_works_in_place_does_not_change_the_example():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.mul_(0)[:, :3]

    example = torch.ones(1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeanlyWarning)
        check(InPlace().eval(), example, validation=(X, Y))
    assert torch.equal(example, torch.ones(1, 4))


# inputs


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_inputs_that_are_not_finite(value, name):
    refused(
        rf"input 'input' holds {value} in row 71 at \[2\]",
        f"split '{name}', row 71",
        **{name: (changed(X, (71, 2), value), Y)},
    )


def test_inputs_that_are_not_finite_name_the_input_of_a_dict():
    class Two(nn.Module):
        def forward(self, left, right):
            return (left + right)[:, :3]

    data = ({"left": X, "right": changed(X, (3, 0), math.nan)}, Y)
    example = {"left": X[:1], "right": X[:1]}
    refused(r"input 'right' holds nan in row 3 at \[0\]", "split 'train', row 3", Two().eval(), example, train=data)


def test_targets_that_are_not_finite():
    targets = changed(torch.randn(90, 3), (80, 1), math.nan)
    refused(r"the targets hold nan in row 80 at \[1\]", "split 'train', row 80", train=(X, targets), metric="mse")


def test_integer_images_where_the_model_wants_float():
    pixels = torch.randint(0, 255, (90, 4), dtype=torch.uint8)
    error = refused("input 'input' is uint8, the example is float32", "split 'validation'", validation=(pixels, Y))
    assert "x.float() / 255" in error.remedy


def test_double_precision_arrays():
    error = refused("input 'input' is float64, the example is float32", "split 'train'", train=(X.double().numpy(), Y))
    assert "x.to(torch.float32)" in error.remedy


@pytest.mark.parametrize("inputs", [torch.randn(90, 5), torch.randn(90, 4, 1), torch.randn(90)])
def test_rows_of_another_shape_than_the_example(inputs):
    shape = tuple(inputs.shape[1:])
    error = refused(
        f"a row of input 'input' has shape {shape}, of the example (4,)".replace("(", r"\(").replace(")", r"\)"),
        "split 'test'",
        test=(inputs, Y),
    )
    assert 'dynamic={"input": {1: "length"}}' in error.remedy


def test_rows_that_only_the_model_finds_wrong():
    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 3)

        def forward(self, ids):
            return self.table(ids).sum(1)

    ids = changed(torch.zeros(90, 4, dtype=torch.int64), (7, 1), 10)
    refused(
        "first rows of split 'validation' do not fit the model .*IndexError",
        "test_checks.py",
        Lookup().eval(),
        torch.zeros(1, 4, dtype=torch.int64),
        validation=(ids, Y),
    )


# labels


@pytest.mark.parametrize("metric", ["accuracy", "f1", lambda predictions, targets: 0.5])
@pytest.mark.parametrize(
    ("label", "remedy"), [(3, "number the classes 0 to 2"), (-1, "number the classes"), (-100, "ignores -100 silently")]
)
def test_a_label_out_of_range(metric, label, remedy):
    error = refused(
        f"label of row 66 is {label}, outside 0 to 2",
        "split 'validation', row 66",
        validation=(X, changed(Y, 66, label)),
        metric=metric,
    )
    assert remedy in error.remedy


def test_labels_of_a_binary_model_are_0_and_1():
    binary = nn.Linear(4, 1).eval()
    check(binary, validation=(X, (Y > 0).float()[:, None]), loss="binary_cross_entropy")
    refused("is 2, outside 0 to 1", "split 'validation', row 2", binary, validation=(X, Y))


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_one_class_only(name):
    error = refused(
        "all 90 rows have one label, 1", f"split '{name}'", **{name: (X, torch.ones(90, dtype=torch.int64))}
    )
    assert "shuffled before they are split" in error.remedy


def test_labels_that_are_no_whole_numbers():
    error = refused(
        "label of row 2 is 0.25, not a whole number",
        "split 'train', row 2",
        train=(X, changed(Y.float(), 2, 0.25)),
    )
    assert 'metric="mse"' in error.remedy


def test_whole_numbers_as_floats_are_labels():
    check(validation=(X, Y.float()))


def test_one_hot_labels():
    assert (
        "argmax"
        in refused(r"a target has shape \(3,\), not one label", "split 'train'", train=(X, torch.eye(3)[Y])).remedy
    )


def test_a_regression_has_no_classes():
    check(nn.Linear(4, 1).eval(), validation=(X, torch.randn(90)), metric="mse")
    # a metric of the user's own beside the default loss: float targets are no labels
    check(
        nn.Linear(4, 3).eval(),
        validation=(X, torch.randn(90, 3)),
        metric=lambda predictions, targets: -float(predictions.var()),
    )


def test_an_output_that_holds_no_classes():
    class Map(nn.Module):
        def forward(self, x):
            return x[:, :, None, None]

    refused(r"output has shape \(1, 4, 1, 1\)", "Task.metric", Map().eval(), validation=(X, Y))


# metric


def test_a_metric_that_returns_text_shows_before_any_work():
    refused("returned 'good'", "test_checks.py:", validation=(X, Y), metric=lambda predictions, targets: "good")


def test_a_metric_that_returns_nan_over_the_whole_split():
    refused(
        "returned nan", "test_checks.py:", validation=(X[:20], Y[:20]), metric=lambda predictions, targets: math.nan
    )


def test_a_metric_that_takes_something_else():
    refused("failed with IndexError", "", validation=(X, Y), metric=lambda predictions, targets: predictions["logits "])


def test_targets_of_another_shape_than_the_predictions():
    refused(
        r"predictions have shape \(32, 3\) and targets \(32,\)",
        "Task.metric",
        validation=(X, torch.randn(90)),
        metric="mse",
    )


def test_a_metric_of_one_number_a_row_is_tried_on_rows_whose_targets_differ():
    network = nn.Linear(4, 1).eval()
    check(network, validation=(X, torch.cat([torch.zeros(40), torch.randn(50)])), metric="pearson")


def test_a_metric_that_needs_more_rows_than_the_sample_is_let_through():
    def area(predictions, targets):
        if len(targets) < 90:
            raise ValueError("too few")
        return 0.5

    check(validation=(X, Y), metric=area)


def test_a_model_that_always_says_the_same():
    network = model()
    with torch.no_grad():
        network.bias[1] = 100
    with pytest.warns(LeanlyWarning, match="says class 1 for each of the first 32 rows of split 'validation'.*trained"):
        check(network, validation=(X, Y))


@pytest.mark.parametrize("metric", [lambda predictions, targets: 1.0, lambda predictions, targets: float(len(targets))])
def test_a_metric_that_nothing_changes_is_warned_of(metric):
    with pytest.warns(
        LeanlyWarning, match="is the same for the first 32 rows of split 'validation'.*no loss would show"
    ):
        check(validation=(X, Y), metric=metric)


def test_sorted_labels_are_no_constant_model():
    network = model()
    with torch.no_grad():
        network.bias[0] = 100
    check(network, validation=(X, torch.arange(90) // 45))


# order


def test_augmentation_of_validation_is_refused_and_of_train_is_warned():
    noisy = Rows(lambda index: (X[index] + torch.rand(4), Y[index]))
    refused("two readings differ", "split 'validation'", validation=noisy)
    with pytest.warns(LeanlyWarning, match="readings of split 'train' differ.*augmentation"):
        check(train=noisy)


def test_a_stream_without_an_order():
    class Shuffled(IterableDataset):
        def __iter__(self):
            return ((X[index], Y[index]) for index in torch.randperm(90).tolist())

    for name in ("train", "test"):
        error = refused("two readings differ, so predictions can't pair up", f"split '{name}'", **{name: Shuffled()})
        assert "fixed order" in error.remedy


# shared rows


def test_rows_of_test_in_train_are_warned_and_counted():
    with pytest.warns(
        LeanlyWarning, match="10 of 30 rows of split 'test' are also in 'train', the first is row 5"
    ) as caught:
        check(train=(X[:60], Y[:60]), test=(torch.cat([X[60:65], X[:10], X[70:85]]), Y[:30]))
    assert len(caught) == 1


@pytest.mark.parametrize(("first", "second"), [("validation", "test"), ("train", "validation")])
def test_rows_of_other_splits_are_warned_too(first, second):
    with pytest.warns(LeanlyWarning, match=f"90 of 90 rows of split '{second}' are also in '{first}'"):
        check(**{first: (X, Y), second: (X, Y)})


def test_rows_are_read_once_in_order_of_the_splits():
    read = []

    def item(index):
        read.append(index)
        return X[index], Y[index]

    task = Task(model(), X[:1], test=Rows(item))
    assert read == []
    task.check()
    assert read[:90] == list(range(90))
    # the order is checked and the metric tried on the first rows again, and nothing else is read twice
    assert len(read) <= 90 + 2 * 64 + 32
    again = len(read)
    _ = task.fingerprint(), task.split("test").targets
    assert len(read) == again

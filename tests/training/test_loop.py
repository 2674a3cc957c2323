"""The loop: what it learns, what it keeps, when it stops, and what it refuses."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset

import leanly
from leanly.errors import DataError, LeanlyWarning, SettingError, TrainingError
from leanly.training import Progress, Settings
from leanly.training.evaluation import evaluate
from leanly.training.rows import Rows
from tests.training.models import Net, equal, image_task, images, weights

FLOAT = Settings(batch_size=16, precision="float32", learning_rate=0.01)


def test_it_learns_and_changes_neither_module_nor_graph():
    task = image_task()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    graph = leanly.capture(task.model, example=task.example)
    started = graph.fingerprint()
    trained = leanly.train(task, graph, epochs=5, settings=FLOAT)
    assert evaluate(trained, task, task.split("validation")) > 0.75 > evaluate(graph, task, task.split("validation"))
    assert graph.fingerprint() == started and not trained.training
    assert equal(before, task.model.state_dict())
    task.model.load_state_dict(trained.state_dict())
    assert torch.allclose(task.model(images(5)[0]), trained(images(5)[0]), atol=1e-5)


def test_steps_are_those_of_a_loop_in_plain_pytorch():
    task = image_task(validation=False)
    settings = Settings(
        batch_size=16, optimizer="sgd", learning_rate=0.05, weight_decay=0.01, schedule="linear", warmup=0.25,
        clip=0.5, precision="float32", seed=3,
    )  # fmt: skip
    trained = leanly.train(task, epochs=2, settings=settings)
    model = Net()
    model.load_state_dict(task.model.state_dict())
    model.train()
    decayed = [model.conv.weight, model.head.weight]
    others = [model.conv.bias, model.norm.weight, model.norm.bias, model.head.bias]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    # 12 steps, 3 of them to warm up
    factors = [1 / 4, 2 / 4, 3 / 4, *(1 - step / 9 for step in range(9))]
    rows = Rows(task.split("train"), 16, seed=3)
    for factor, batch in zip(factors, [*rows.epoch(0), *rows.epoch(1)], strict=True):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * factor
        optimizer.zero_grad()
        functional.cross_entropy(model(batch.inputs[0]), batch.targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    for name, tensor in model.state_dict().items():
        if name != "norm.num_batches_tracked":
            torch.testing.assert_close(trained.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights(precision):
    task = image_task(p=0.5)

    def trained(seed, noise):
        torch.manual_seed(noise)
        settings = Settings(batch_size=16, augment=("crop", "flip"), precision=precision, seed=seed)
        return weights(leanly.train(task, epochs=2, settings=settings))

    first = trained(0, noise=1)
    assert equal(first, trained(0, noise=2))
    assert not equal(first, trained(1, noise=1))


def test_random_numbers_of_the_user_are_left_where_they_were():
    torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
    task = image_task(p=0.5)
    torch.manual_seed(5)
    leanly.train(task, epochs=1, settings=FLOAT)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected  # noqa: NPY002
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_best_state_on_validation_comes_back():
    task = image_task()
    seen: list[Progress] = []
    settings = Settings(batch_size=16, learning_rate=3.0, schedule="constant", precision="float32")
    trained = leanly.train(task, epochs=6, settings=settings, progress=seen.append)
    metrics = [step.metric for step in seen]
    assert evaluate(trained, task, task.split("validation")) == max(metrics) == seen[-1].best
    assert metrics[-1] < max(metrics), "a rate this high ends worse than its best, or the test shows nothing"


def test_a_start_that_is_better_than_all_that_follows_comes_back():
    task = image_task()
    good = leanly.train(task, epochs=5, settings=FLOAT)
    worse = Settings(batch_size=16, learning_rate=3.0, schedule="constant", precision="float32", warmup=0.0)
    again = leanly.train(task, good, epochs=1, settings=worse)
    assert equal(weights(again), weights(good))
    metric = evaluate(good, task, task.split("validation"))
    told = f"training: not kept, since no state was as good on validation as the one given (accuracy {metric:.4f})"
    assert again.notes == (told,) and good.notes == ()


def test_progress_tells_every_step():
    seen: list[Progress] = []
    leanly.train(image_task(), epochs=2, settings=FLOAT, progress=seen.append)
    assert [step.step for step in seen] == [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]
    assert [step.fraction for step in seen][-1] == 1.0 and seen[0].fraction == 0.0
    assert seen[0].loss is None and seen[1].loss is not None and seen[0].metric is not None
    assert [step.epoch for step in seen if step.step in (5, 7)] == [0, 1]
    assert seen[-1].seconds_left == 0.0


def test_it_stops_early_without_gain():
    seen: list[Progress] = []
    settings = Settings(batch_size=16, learning_rate=1e-12, patience=2, precision="float32")
    leanly.train(image_task(p=0.0), epochs=50, settings=settings, progress=seen.append)
    assert seen[-1].epoch < 10


def test_without_validation_the_last_state_comes_back():
    task = image_task(validation=False)
    seen: list[Progress] = []
    trained = leanly.train(task, epochs=2, settings=FLOAT, progress=seen.append)
    assert {step.metric for step in seen} == {None}
    assert evaluate(trained, task, task.split("train")) > 0.4
    assert trained.notes == ("training: no validation rows say whether what was learned is better than what was given",)


def test_without_training_rows_it_says_what_is_possible():
    x, y = images(8)
    task = leanly.Task(Net().eval(), example=x[:2], validation=(x, y))
    with pytest.raises(DataError, match=r"no split 'train'.*quantize\.Static still works"):
        leanly.train(task)


def spoiled(row: int) -> leanly.Task:
    """A task in which one training row is infinite."""
    x, y = images(96)
    x[row] = float("inf")
    torch.manual_seed(0)
    return leanly.Task(Net().eval(), example=images(2)[0], train=(x, y), validation=images(48, seed=1))


def test_a_loss_that_is_no_number_names_the_batch():
    with pytest.raises(TrainingError, match=r"loss became nan.*epoch 1, batch \d+ \(rows [\d, ]+ and 13 more of split"):
        leanly.train(spoiled(7), epochs=2, settings=FLOAT)


def test_the_last_good_state_is_kept_when_the_loss_is_no_number_later():
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        return functional.cross_entropy(outputs, targets) * (float("nan") if len(calls) == 9 else 1.0)

    task = image_task(loss=loss)
    with pytest.warns(LeanlyWarning, match=r"became nan in epoch 2, batch 3 .* the best state before it is kept"):
        kept = leanly.train(task, epochs=4, settings=FLOAT)
    calls.clear()
    seen: list[Progress] = []
    with pytest.warns(LeanlyWarning, match="became nan"):
        again = leanly.train(task, epochs=4, settings=FLOAT, progress=seen.append)
    assert equal(weights(kept), weights(again)) and all(tensor.isfinite().all() for tensor in weights(kept).values())
    assert evaluate(kept, task, task.split("validation")) == max(step.metric for step in seen)


def test_weights_that_break_in_an_epochs_last_step_are_not_kept():
    def loss(outputs, targets):
        # its value is fine, its gradient is not
        return functional.cross_entropy(outputs, targets) + (outputs * 0).sum().sqrt()

    with pytest.raises(TrainingError, match="weights became nan"):
        leanly.train(image_task(rows=16, loss=loss), epochs=2, settings=FLOAT)


@pytest.mark.parametrize("validation", [True, False])
def test_batch_norm_of_one_value_a_channel_is_named(validation):
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval()
    x, y = images(7)
    held = images(6, seed=1) if validation else None
    task = leanly.Task(model, example=x[:2], train=(x, y), validation=held)
    with pytest.raises(TrainingError, match=r"running_var became nan.*a larger batch_size: batch norm needs more than"):
        leanly.train(task, epochs=2, settings=replace(FLOAT, batch_size=1))


def test_infinity_in_a_mask_is_no_trouble():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, 0.0, float("-inf")]))
            self.head = nn.Linear(128, 3)

        def forward(self, x):
            return torch.softmax(self.head(x.flatten(1)) + self.mask, 1)

    x, y = images(8)
    leanly.train(leanly.Task(Masked().eval(), example=x[:2], train=(x, y % 2)), epochs=1, settings=FLOAT)


def test_weights_too_large_to_predict_with_are_not_kept():
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        return functional.cross_entropy(outputs, targets) * (1e16 if len(calls) == steps else 1.0)

    settings = Settings(batch_size=16, precision="float32", optimizer="sgd", learning_rate=0.1)
    task, steps = image_task(loss=loss), 12  # the last of the second epoch
    with pytest.warns(LeanlyWarning, match=r"predictions for validation became nan in epoch 2, batch 6 .* is kept"):
        kept = leanly.train(task, epochs=4, settings=settings)
    assert all(bool(tensor.isfinite().all()) for tensor in weights(kept).values())
    calls.clear()
    steps = 6
    with pytest.raises(TrainingError, match=r"predictions for validation became nan.*epoch 1, batch 6"):
        leanly.train(task, epochs=4, settings=settings)


@pytest.mark.parametrize("where", ["loss", "forward"])
def test_a_loss_that_no_weight_has_a_part_in_is_refused(where):
    class Cut(Net):
        def forward(self, x):
            return super().forward(x).detach()

    x, y = images(32)
    model = Net().eval() if where == "loss" else Cut().eval()
    loss = (lambda outputs, targets: outputs.detach().sum()) if where == "loss" else "cross_entropy"
    with pytest.raises(DataError, match=r"does not depend on any weight.*epoch 1, batch 1 .*detach"):
        leanly.train(leanly.Task(model, example=x[:2], train=(x, y), loss=loss), epochs=1, settings=FLOAT)


def test_a_module_is_no_graph():
    with pytest.raises(SettingError, match=r"a Net was given where a Graph is needed.*leanly\.capture"):
        leanly.train(image_task(), Net().eval())  # type: ignore[arg-type]


def test_rows_are_no_task_and_a_device_no_target():
    with pytest.raises(SettingError, match="a tuple was given where a Task is needed"):
        leanly.train(images(8))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="a str was given where a Target is needed"):
        leanly.train(image_task(), target="cpu")  # type: ignore[arg-type]


def test_labels_that_the_loss_refuses_name_the_rows():
    x, y = images(32)
    task = leanly.Task(Net().eval(), example=x[:2], train=(x, y + 2))
    with pytest.raises(DataError, match=r"failed in training .*Target 3 is out of bounds.*epoch 1, batch 1 \(rows"):
        leanly.train(task, epochs=1, settings=FLOAT)


def test_a_loss_of_many_numbers_is_refused():
    task = image_task(loss=lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none"))
    with pytest.raises(DataError, match=r"the loss gives \(16,\).*loss\.mean"):
        leanly.train(task, epochs=1, settings=FLOAT)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_epochs_out_of_range(epochs):
    with pytest.raises(SettingError, match="epochs is"):
        leanly.train(image_task(), epochs=epochs)


def test_nothing_to_train():
    task = image_task()
    graph = leanly.capture(task.model, example=task.example)
    for parameter in graph.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(SettingError, match="no parameter that can be trained"):
        leanly.train(task, graph)


def test_frozen_parameters_stay_as_they_are():
    task = image_task()
    graph = leanly.capture(task.model, example=task.example)
    for name, parameter in graph.named_parameters():
        parameter.requires_grad_(not name.startswith("conv"))
    trained = weights(leanly.train(task, graph, epochs=1, settings=FLOAT))
    for name, tensor in weights(graph).items():
        assert torch.equal(trained[name], tensor) == name.startswith(("conv", "norm.num"))


class Numbered(Dataset):
    """Images that are mirrored at random when they are read, as datasets of users do."""

    def __init__(self, rows: int) -> None:
        self.x, self.y = images(rows)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index):
        return (self.x[index].flip(2) if random.random() < 0.5 else self.x[index]), int(self.y[index])


class Streamed(IterableDataset):
    def __init__(self, rows: int) -> None:
        self.x, self.y = images(rows)

    def __iter__(self):
        return iter(zip(self.x, self.y, strict=True))


@pytest.mark.parametrize("data", [Numbered(96), Streamed(96)], ids=["numbered", "streamed"])
def test_datasets_of_the_user(data):
    torch.manual_seed(0)
    task = leanly.Task(Net().eval(), example=data.x[:2], train=data, validation=images(48, seed=1))
    first = leanly.train(task, epochs=4, settings=FLOAT)
    assert evaluate(first, task, task.split("validation")) > 0.6
    assert equal(weights(first), weights(leanly.train(task, epochs=4, settings=FLOAT)))


class Dropping(nn.Module):
    """Drops values in both ways that a graph knows: by an operator of its own, and inside attention."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.one, self.two, self.share = nn.Linear(12, 24), nn.Linear(24, 3), share
        self.drop = nn.Dropout(share)

    def forward(self, x):
        heads = self.drop(torch.relu(self.one(x))).reshape(-1, 2, 3, 4)
        share = self.share if self.training else 0.0
        return self.two(functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=share).flatten(1))


def test_dropout_is_left_out_where_asked_and_comes_back_afterwards():
    x, y = torch.randn(64, 12), torch.arange(64) % 3

    def trained(share: float, **settings) -> leanly.Graph:
        torch.manual_seed(0)
        model = Dropping(share)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeanlyWarning)  # it is in training mode, so that attention drops
            task = leanly.Task(model, example=x[:2], train=(x, y))
        return leanly.train(task, epochs=2, settings=replace(FLOAT, **settings))

    without = trained(0.5, dropout=False)
    assert equal(weights(without), weights(trained(0.0)))
    assert not equal(weights(without), weights(trained(0.5)))
    without.train()
    assert not torch.equal(without(x), without(x))


def test_statistics_stay_where_asked_and_follow_the_batch_again_afterwards():
    class Held(Net):
        def forward(self, x):
            norm = self.norm
            shaped = [part[:, None, None] for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
            mean, variance, weight, bias = shaped
            x = (self.conv(x) - mean) * torch.rsqrt(variance + norm.eps) * weight + bias
            return self.head(torch.relu(x).mean((2, 3)))

    def trained(kind: type[Net], **settings) -> leanly.Graph:
        torch.manual_seed(0)
        model = kind().eval()
        with torch.no_grad():
            model.norm.running_mean.normal_()
            model.norm.running_var.uniform_(0.5, 2.0)
        x, y = images(96)
        return leanly.train(
            leanly.Task(model, example=x[:2], train=(x, y)), epochs=2, settings=replace(FLOAT, **settings)
        )

    kept, held, followed = trained(Net, keep_statistics=True), trained(Held), trained(Net)
    tensors = weights(kept)
    for name, tensor in weights(held).items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-4, atol=1e-6)
    assert not torch.equal(tensors["norm.running_mean"], weights(followed)["norm.running_mean"])
    kept.train()(torch.randn(8, 2, 8, 8))
    assert not torch.equal(tensors["norm.running_mean"], weights(kept)["norm.running_mean"])


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids):
            return self.head(self.words(ids).mean(1))

    ids = torch.randint(0, 7, (40, 5))
    task = leanly.Task(Tied().eval(), example=ids[:2], train=(ids, ids[:, 0]))
    state = leanly.train(task, epochs=1, settings=FLOAT).state_dict()
    assert state["words.weight"].data_ptr() == state["head.weight"].data_ptr()
    assert not torch.equal(state["words.weight"], task.model.words.weight)

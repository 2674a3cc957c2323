import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from leanly.errors import DataError, LeanlyWarning
from leanly.metrics import Metric
from leanly.task import Task

torch.manual_seed(0)
X, Y = torch.randn(90, 4), torch.arange(90) % 3
DATA = {"train": (X[:30], Y[:30]), "validation": (X[30:60], Y[30:60]), "test": (X[60:], Y[60:])}


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).eval()


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 3)

    def forward(self, input_ids, attention_mask):
        rows = self.table(input_ids) * attention_mask[..., None]
        return {"hidden": rows, "logits": rows.sum(1)}


def test_a_task_needs_only_a_model_and_an_example():
    task = Task(classifier(), X[:1])
    assert task.split("train") is None
    assert (task.name, task.static, task.dynamic) == ("Sequential", (), None)
    task.check()


def test_splits_metric_and_loss():
    task = Task(classifier(), example=X[:1], **DATA, name="seeds")
    validation = task.split("validation")
    assert validation is not None
    assert validation is task.split("validation")
    assert (validation.name, len(validation)) == ("validation", 30)
    assert isinstance(task.metric, Metric)
    assert task.metric.name == "accuracy"
    assert task.loss_function(torch.zeros(2, 3), torch.tensor([0, 1])) == pytest.approx(np.log(3))
    assert repr(task).startswith("Task('seeds', metric='accuracy', splits=[Split('train', 30 rows)")
    task.check()


def test_targets_may_be_left_out_of_training_rows_alone():
    task = Task(classifier(), example=X[:1], **{**DATA, "train": (X[:30], None)})
    task.check()
    for name in ("validation", "test"):
        with pytest.raises(DataError, match=f"metric needs targets.*split '{name}'.*go into train="):
            Task(classifier(), example=X[:1], **{name: (X, None)})


def test_a_task_is_frozen_and_can_be_replaced():
    task = Task(classifier(), X[:1], **DATA)
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.metric = "f1"  # type: ignore[misc]
    other = dataclasses.replace(task, metric="f1", train=None)
    assert other.metric.name == "f1"
    assert other.split("train") is None
    assert other.split("test").digest == task.split("test").digest


def test_score_takes_tensors_or_arrays_in_the_model_s_structure():
    task = Task(classifier(), X[:1])
    logits, labels = torch.eye(3), torch.arange(3)
    assert task.score(logits, labels) == 1.0
    assert task.score(logits.numpy(), labels.numpy()) == 1.0
    assert task.score({"hidden": torch.zeros(3), "logits": logits.bfloat16()}, labels) == 1.0


def test_keyword_inputs_with_a_varying_dimension():
    ids = torch.randint(0, 50, (40, 7))
    data = ({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(40) % 3)
    example = {"attention_mask": torch.ones(1, 5, dtype=torch.int64), "input_ids": torch.ones(1, 5, dtype=torch.int64)}
    dynamic = {"input_ids": {1: "length"}, "attention_mask": {1: "length"}}
    task = Task(Encoder().eval(), example, validation=data, dynamic=dynamic)
    task.check()
    batch = next(task.split("validation").batches(4))
    assert list(batch.arguments[1]) == ["attention_mask", "input_ids"]
    with pytest.raises(
        DataError, match=r"row of input 'attention_mask' has shape \(7,\), of the example \(5,\).*dynamic="
    ):
        Task(Encoder().eval(), example, validation=data).check()


def test_an_exported_program_is_a_model():
    program = torch.export.export(classifier(), (X[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    task = Task(program, X[:1], **DATA)
    task.check()
    assert task.fingerprint() == Task(program, X[:1], **DATA).fingerprint()


def test_the_model_is_never_changed():
    model = classifier().train()
    model[3].eval()
    modes = [part.training for part in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.warns(
        LeanlyWarning, match=r"model is in train mode; leanly evaluates a copy in eval mode.*model.eval()"
    ):
        task = Task(model, X[:1], **DATA)
    task.check()
    task.fingerprint()
    assert [part.training for part in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_fingerprint_is_the_same_for_the_same_task_and_sees_every_part():
    def fingerprint(model=None, example=X[:1], **settings):
        return Task(model or classifier(), example, **{**DATA, **settings}).fingerprint()

    assert fingerprint() == fingerprint() == fingerprint(train=TensorDataset(*DATA["train"]))
    # how many rows the example has and what lies in them does not make another task
    assert fingerprint() == fingerprint(example=X[5:8])
    heavier = classifier()
    with torch.no_grad():
        heavier[0].weight[0, 0] += 1e-6
    moved = classifier()
    moved[1].running_mean[0] += 1
    others = [
        fingerprint(heavier),
        fingerprint(moved),
        fingerprint(metric="f1"),
        fingerprint(loss="kl"),
        fingerprint(test=None),
        fingerprint(test=DATA["train"]),
        fingerprint(train=DATA["test"], test=DATA["train"]),
    ]
    assert len({fingerprint(), *others}) == len(others) + 1


@pytest.mark.parametrize("model", [None, "resnet18", lambda x: x, nn.Linear])
def test_a_model_of_another_kind(model):
    with pytest.raises(DataError, match=r"the model is a .*Where: Task.model.*torch.nn.Module"):
        Task(model, X[:1])


def test_a_model_on_another_device_than_the_example():
    with pytest.raises(
        DataError, match=r"model's 'weight' is on device 'meta', the example on 'cpu'.*model.to\(\"cpu\"\)"
    ):
        Task(nn.Linear(4, 3, device="meta").eval(), X[:1])
    with pytest.raises(
        DataError, match=r"model's 'weight' is on device 'cpu', the example on 'meta'.*Where: Task.example"
    ):
        Task(nn.Linear(4, 3).eval(), X[:1].to("meta"))


@pytest.mark.parametrize(
    ("dynamic", "why"),
    [
        ({"imput": {1: "length"}}, "names 'imput', which is no input.*did you mean 'input'"),
        ({"input": {0: "rows"}}, "dimension 0 can't be named.*dimensions 0 .the batch. to 1"),
        ({"input": {2: "length"}}, "dimension 2 can't be named"),
        ({"input": {-1: "length"}}, "dimension -1 can't be named"),
        ({"input": {"1": "length"}}, "dimension '1' can't be named"),
        ({"input": {1: "two words"}}, "'two words' can't name a dimension"),
        ({"input": {1: "batch"}}, "'batch' is taken|\"batch\" is taken"),
        ({"input": {1: None}}, "None can't name a dimension"),
    ],
)
def test_dynamic_dimensions_that_are_none(dynamic, why):
    with pytest.raises(DataError, match=why) as caught:
        Task(nn.Linear(4, 3).eval(), X[:1], dynamic=dynamic)
    assert caught.value.where.startswith("Task.dynamic[")
    assert caught.value.remedy


def test_what_other_files_check_is_checked_when_a_task_is_made():
    for settings, why in (
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"loss": "hinge"}, "no loss named 'hinge'"),
        ({"static": "imput"}, "static names 'imput'"),
        ({"validation": (X[:0], Y[:0])}, "split is empty.*'validation'"),
        ({"train": (X, Y[:3])}, "90 inputs and 3 targets"),
    ):
        with pytest.raises(DataError, match=why):
            Task(classifier(), X[:1], **settings)


def test_a_shuffling_loader_is_warned_about_when_a_task_is_made():
    loader = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)
    with pytest.warns(LeanlyWarning, match="loader of split 'validation' shuffles"):
        task = Task(classifier(), X[:1], validation=loader)
    assert task.split("validation").digest == Task(classifier(), X[:1], validation=(X, Y)).split("validation").digest


def test_a_split_that_does_not_exist():
    with pytest.raises(DataError, match=r"no split 'tset'.*did you mean 'test'"):
        Task(classifier(), X[:1]).split("tset")

"""BatchNorm against PyTorch's own cumulative average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.errors import DataError, SettingError
from leanly.quantize import Static
from leanly.recipe import Recipe
from leanly.training import BatchNorm
from leanly.training.rows import Rows
from tests.training.models import Net, equal, image_task, images, weights


class Two(nn.Module):
    """Norms of two kinds, one of them called twice, one frozen, and dropout that must stay off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4, momentum=0.3)
        self.frozen = nn.BatchNorm2d(4)
        self.each = nn.InstanceNorm2d(4, track_running_stats=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.conv(x))
        x = self.norm(self.each(self.drop(torch.relu(x))))
        return self.head(self.frozen(x).mean((2, 3)))


def test_statistics_are_the_plain_average_over_batches():
    torch.manual_seed(0)
    x, y = images(200)
    model = Two().eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    task = leanly.Task(model, example=x[:2], train=(x, y))
    graph = leanly.capture(model, example=x[:2])
    for node in graph.module.graph.nodes:
        if any("frozen" in str(source.target) for source in node.all_input_nodes):
            node.meta["modes"] = (False, False)
    before = weights(graph)
    result = BatchNorm(rows=120, batch_size=50)(graph, task)
    assert equal(before, weights(graph)), "the graph given is not changed"
    for norm in (model.norm, model.each):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    # instance norm knows no cumulative average: 1/n by hand
    batches = list(Rows(task.split("train"), 50, seed=0).epoch(0))[:3]
    with torch.no_grad():
        for number, batch in enumerate(batches, start=1):
            model.each.momentum = 1 / number
            model(batch.inputs[0])
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(result.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert torch.equal(result.state_dict()["frozen.running_var"], before["frozen.running_var"])


def test_the_mode_is_kept_and_a_second_time_changes_nothing():
    task = image_task()
    graph = leanly.capture(task.model, example=task.example).train()
    once = BatchNorm()(graph, task)
    assert once.training
    assert equal(weights(once), weights(BatchNorm()(once, task)))


def test_without_batch_norm_no_data_is_needed_and_a_note_says_so():
    graph = leanly.capture(nn.Linear(3, 2), example=torch.rand(2, 3))
    (note,) = BatchNorm()(graph).notes
    assert note.startswith("training.BatchNorm: nothing to estimate: no batch norm follows the batch")


def test_behind_integers_which_fold_it_a_note_says_so():
    task = image_task()
    integers = Static()(leanly.capture(task.model, example=task.example), task)
    same = BatchNorm()(integers, task)
    assert same.fingerprint() == integers.fingerprint()
    assert any("quantize.Static and quantize.Equalize fold it" in note for note in same.notes)


def test_without_data_it_says_what_to_do():
    graph = leanly.capture(Net(), example=torch.rand(2, 2, 8, 8))
    with pytest.raises(DataError, match=r"need data, and the task has none.*Without it the old ones stay"):
        BatchNorm()(graph)


def test_settings_out_of_range():
    with pytest.raises(SettingError, match="rows"):
        BatchNorm(rows=0)
    with pytest.raises(SettingError, match="batch_size"):
        BatchNorm(batch_size=1)


def test_it_is_a_pass_of_a_recipe():
    recipe = Recipe((BatchNorm(rows=64),))
    assert recipe.to_json() == [{"pass": "training.BatchNorm", "rows": 64, "batch_size": 128}]
    assert Recipe.from_json(recipe.to_json()) == recipe

"""Distill as data: a teacher is "original" or known by its content."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import leanly
from leanly.distill import Distill
from leanly.errors import SettingError
from leanly.recipe import Recipe
from leanly.training import BatchNorm, Settings
from tests.training.models import equal, image_task, weights

HOW = Settings(optimizer="sgd", augment=("crop", "flip"), batch_size=16)


def again(recipe: Recipe, **given) -> Recipe:
    return Recipe.from_json(json.loads(json.dumps(recipe.to_json())), **given)


def test_round_trip_with_the_original_as_teacher(tmp_path):
    recipe = Recipe((BatchNorm(), Distill(epochs=5, temperature=2.0, alpha=0.5, time="10min", settings=HOW)))
    assert again(recipe) == recipe
    entry = recipe.to_json()[1]
    assert entry["pass"] == "distill.Distill" and entry["teacher"] == "original"
    assert entry["settings"]["augment"] == ["crop", "flip"]
    watched = Recipe((Distill(folder=tmp_path, progress=print),))
    assert set(watched.to_json()[0]) == set(entry), "where it runs and who watches is no part of it"


def test_a_graph_is_named_by_its_content_and_given_back(tmp_path):
    task = image_task(rows=32)
    teacher = leanly.capture(task.model, example=task.example)
    teacher.save(tmp_path / "teacher")
    recipe = Recipe((Distill(teacher, epochs=1, settings=HOW),))
    name = f"sha256:{teacher.fingerprint()}"
    assert recipe.to_json()[0]["teacher"] == name
    torch.manual_seed(1)
    student = leanly.capture(image_task().model, example=task.example)

    alone = again(recipe)
    assert alone.passes[0].teacher == name and alone.to_json() == recipe.to_json()
    with pytest.raises(
        SettingError, match=rf"names its teacher by content, {name[:19]}.*is not here.*Recipe\.from_json"
    ):
        alone(student, task)
    found = again(recipe, teachers=[student, leanly.Graph.open(tmp_path / "teacher")])
    assert equal(weights(found(student, task)), weights(recipe(student, task)))


def test_a_module_of_the_users_own_is_told_and_not_read_back():
    recipe = Recipe((Distill(nn.Linear(2, 2)),))
    assert not recipe.portable and Recipe((Distill(),)).portable
    with pytest.raises(SettingError, match=r"not portable: teacher of distill\.Distill was the user's own .*Linear"):
        again(recipe)

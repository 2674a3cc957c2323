"""A run that is killed goes on to the very same weights, whenever that happens."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import leanly
from leanly.errors import BundleError, RunError
from leanly.training import Settings, checkpoints
from tests.forked import python
from tests.training.models import equal, image_task, weights

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(batch_size=16, augment=("crop", "flip"), learning_rate=0.01, patience=5)

# Trains with checkpoints after every step; dies by SIGKILL at the given renaming of a file, right before or after it.
SCRIPT = """
import os, signal, sys
from pathlib import Path
import leanly
from leanly.distill import Distill
from leanly.prune import Sparse
from leanly.training import Settings, checkpoints
from leanly.training import zeros as zeros_module
from tests.training.models import image_task

folder, kill_at, after, optimizer, zeros = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "after", *sys.argv[4:6]
checkpoints.SECONDS = 0.0
count, replace = 0, Path.replace

def dying(self, target):
    global count
    count += 1
    if count == kill_at and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    result = replace(self, target)
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

Path.replace = dying
settings = Settings(
    batch_size=16, augment=("crop", "flip"), learning_rate=0.01, patience=5, optimizer=optimizer,
    keep_zeros=zeros == "moved", regrow=zeros == "moved",
)
task = image_task(p=0.5)
if zeros == "moved":
    zeros_module.EVERY = 4
    graph = Sparse(0.5)(leanly.capture(task.model, example=task.example))
    Distill(epochs=3, settings=settings, folder=folder)(graph, task)
else:
    leanly.train(task, epochs=3, settings=settings, folder=folder)
"""


def run(folder: Path, kill_at: int, moment: str, *about: str) -> int:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = python(["-c", SCRIPT, folder, kill_at, moment, *about], environment=environment)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def best(folder: Path) -> dict[str, torch.Tensor]:
    state = json.loads((folder / "checkpoint.json").read_text())
    return {name: tensor for name, tensor in load_file(folder / state["file"]).items() if name.startswith("best/")}


# A checkpoint renames two files: odd is its tensors, even its index; there are 6 steps and an evaluation an epoch.
DEATHS = {
    ("adamw", "none"): [(1, "before"), (2, "before"), (9, "after"), (14, "before")],
    ("sgd", "none"): [(13, "after"), (6, "before")],
    ("adamw", "moved"): [(13, "after"), (6, "before")],
}


@pytest.mark.parametrize("about", DEATHS, ids="-".join)
def test_killed_again_and_again_it_ends_with_the_same_weights(tmp_path, about):
    folder = tmp_path / "run"
    for kill_at, moment in DEATHS[about]:
        assert run(folder, kill_at, moment, *about) == -signal.SIGKILL
    assert json.loads((folder / "checkpoint.json").read_text())["state"]["step"] > 6
    assert run(folder, 0, "never", *about) == 0
    state = json.loads((folder / "checkpoint.json").read_text())
    assert state["state"]["finished"] and state["state"]["step"] == 18
    assert run(tmp_path / "uninterrupted", 0, "never", *about) == 0
    assert equal(best(folder), best(tmp_path / "uninterrupted"))


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    graph = leanly.train(image_task(), epochs=1, settings=SETTINGS, folder=tmp_path / "run")
    return tmp_path / "run", graph


def test_a_run_that_ended_is_not_done_again(finished):
    folder, graph = finished
    seen = []
    again = leanly.train(image_task(), epochs=1, settings=SETTINGS, folder=folder, progress=seen.append)
    assert not seen and equal(weights(graph), weights(again))
    assert len(list(folder.iterdir())) == 2, "the checkpoint before is gone"


def test_the_checkpoint_of_another_run_is_refused(finished):
    folder, _ = finished
    with pytest.raises(RunError, match="checkpoint of another run"):
        leanly.train(image_task(), epochs=2, settings=SETTINGS, folder=folder)
    with pytest.raises(RunError, match="checkpoint of another run"):
        leanly.train(image_task(rows=80), epochs=1, settings=SETTINGS, folder=folder)


def test_a_damaged_checkpoint_is_refused(finished):
    folder, _ = finished
    file = next(folder.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        leanly.train(image_task(), epochs=1, settings=SETTINGS, folder=folder)
    (folder / "checkpoint.json").write_text("{}")
    with pytest.raises(BundleError, match="describes no checkpoint"):
        leanly.train(image_task(), epochs=1, settings=SETTINGS, folder=folder)


def test_a_checkpoint_names_no_file_outside_its_folder(finished):
    folder, _ = finished
    index = json.loads((folder / "checkpoint.json").read_text())
    outside = folder.parent / "first.safetensors"
    (folder / index["file"]).rename(outside)
    index["file"] = f"../{outside.name}"
    (folder / "checkpoint.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="damaged"):
        leanly.train(image_task(), epochs=1, settings=SETTINGS, folder=folder)


def test_a_folder_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't be made"):
        leanly.train(image_task(), epochs=1, settings=SETTINGS, folder=tmp_path / "file" / "run")


@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c_says_what_is_left(tmp_path, kept):
    def stop(progress):
        if progress.step == 9:
            raise KeyboardInterrupt

    folder = tmp_path / "run" if kept else None
    with pytest.raises(KeyboardInterrupt) as caught:
        leanly.train(image_task(), epochs=3, settings=SETTINGS, folder=folder, progress=stop)
    (note,) = caught.value.__notes__
    assert (f"goes on from the checkpoint in {folder}" if kept else "give folder=") in note
    if kept:
        again = leanly.train(image_task(), epochs=3, settings=SETTINGS, folder=folder)
        assert equal(weights(again), weights(leanly.train(image_task(), epochs=3, settings=SETTINGS)))


def test_ctrl_c_before_the_first_checkpoint_promises_none(tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        leanly.train(image_task(), epochs=1, settings=SETTINGS, folder=tmp_path / "run", progress=stop)
    assert caught.value.__notes__ == ["It ended before its first checkpoint: the same call begins anew."]
    assert not (tmp_path / "run" / "checkpoint.json").exists()

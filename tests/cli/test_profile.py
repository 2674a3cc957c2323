"""`leanly profile` on a bundle with its graph: times in both precisions, and what each layer loses."""

from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.quantize import Binary, Static
from tests.cli.test_commands import run

SOURCE = """
import torch
from torch import nn
import leanly

torch.manual_seed(0)
x = torch.randn(64, 3, 8, 8)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
labels = model(x).argmax(1)
task = leanly.Task(model, example=x[:2], train=(x, labels), validation=(x, labels))
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(SOURCE)
    content: dict = {}
    exec(SOURCE, content)
    task = content["task"]
    graph = leanly.capture(task.model, example=task.example)
    artifact = leanly.lower(Static()(graph, task, leanly.Target("cpu")), runtime="onnxruntime", to=tmp_path / "lowered")
    return leanly.bundle.save(tmp_path / "model.leanly", artifacts={1: artifact}, document={}, graph=graph)


def columns(text: str, first: str) -> dict[str, list[str]]:
    """The cells of the table whose header begins with a word, by the first cell of each line."""
    lines = text[text.index(f"\n{first} ") :].strip().splitlines()
    starts = [i for i, mark in enumerate(lines[1]) if mark == "-" and (i == 0 or lines[1][i - 1] == " ")]
    cells = [
        [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines
        if line and not line.startswith("-")
    ]
    return {line[0]: line[1:] for line in cells if line[0] in (first, "conv2d", "linear", "all")}


def test_layers_are_timed_in_both_precisions(bundle: Path):
    done = run("profile", bundle, "--threads", "1", "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    assert "int8, onnxruntime, batch 4, 1 thread: " in done.stdout
    found = columns(done.stdout, "layer")
    assert found["layer"][2:6] == ["MACs", "share", "int8", "float32"]
    for layer in ("conv2d", "linear", "all"):
        assert all(cell.endswith(" us") for cell in found[layer][4:6]), found


def test_with_a_task_it_says_what_each_layer_loses(bundle: Path):
    done = run("profile", bundle, "--task", f"{bundle.parent / 'job.py'}:task")
    assert done.returncode == 0, done.stderr
    found = columns(done.stdout, "layer")
    assert found["layer"][6:8] == ["SQNR", "accuracy lost"]
    for layer in ("conv2d", "linear"):
        assert found[layer][6].endswith(" dB") and found[layer][7].endswith(" points")
    assert "below 0: gained" in done.stdout


def test_weights_of_one_bit_that_no_kernel_multiplies_so_are_called_storage_only(tmp_path: Path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten()]
    model, x = nn.Sequential(*layers, nn.Linear(32, 4)).eval(), torch.randn(16, 3, 8, 8)
    task = leanly.Task(model, example=x[:2], train=(x, torch.arange(16) % 4))
    signs = Binary()(leanly.capture(model, example=x[:2]), task).eval()
    leanly.lower(signs, runtime="openvino", to=tmp_path / "signs")
    job = tmp_path / "job.py"
    job.write_text(SOURCE)
    done = run("profile", tmp_path / "signs", "--threads", "1", "--task", f"{job}:task")
    assert done.returncode == 0, done.stderr
    assert "no losses by layer" in done.stdout, "a task is not ignored without a word"
    assert "weights of 1 bit (2 tensors) are stored so and computed in int8: storage only" in done.stdout


def test_a_runtime_that_tells_no_times_says_so(tmp_path: Path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).eval()
    graph = leanly.capture(model, example=torch.randn(2, 3, 8, 8))
    leanly.lower(graph, runtime="torch", to=tmp_path / "eager", eager=True)
    done = run("profile", tmp_path / "eager")
    assert done.returncode == 0, done.stderr
    assert "no times: torch does not tell what a node takes" in done.stdout

"""`leanly profile` on a bundle with its graph: times in both precisions, and what each layer loses."""

from pathlib import Path

import pytest
import torch
from torch import nn

import leanly
from leanly.families.candidate import parts
from leanly.prune import Channels
from leanly.quantize import Binary, CorrectBias, Equalize, Mixed, Static, WeightsOnly
from leanly.recipe import Recipe
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
    return saved(tmp_path, Recipe((Static(kernels="onnxruntime"),)), document={})


def saved(folder: Path, *recipes: Recipe, document: dict | None = None) -> Path:
    """A bundle of the task's model, as a run with the recipes at batch 1, 2, ... would save it."""
    (folder / "job.py").write_text(SOURCE)
    content: dict = {}
    exec(SOURCE, content)
    task = content["task"]
    graph = leanly.capture(task.model, example=task.example)
    artifacts = {
        size: leanly.lower(recipe(graph, task), runtime="onnxruntime", to=folder / f"lowered-{size}")
        for size, recipe in enumerate(recipes, 1)
    }
    if document is None:
        choices = [{"batch_size": size, "best": size, "float_best": 0} for size in artifacts]
        trials = {str(size): {"recipe": recipe.to_json()} for size, recipe in enumerate(recipes, 1)}
        document = {"choices": choices, "trials": trials}
    held = Recipe(parts(recipes[0])[0])(graph, task)
    return leanly.bundle.save(folder / "model.leanly", artifacts=artifacts, document=document, graph=held)


def told(bundle: Path, *options: str) -> str:
    done = run("profile", bundle, "--threads", "1", "--task", f"{bundle.parent / 'job.py'}:task", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
    text = told(bundle)
    found = columns(text, "layer")
    assert found["layer"][6:9] == ["bits", "SQNR", "accuracy lost"]
    for layer in ("conv2d", "linear"):
        assert found[layer][6] == "W8A8" and found[layer][7].endswith(" dB") and found[layer][8].endswith(" points")
    assert "below 0: gained" in text
    assert "to see what 8 bits would lose: the bundle of this int8 artifact holds no recipe that quantizes" in text


def decibels(text: str) -> dict[str, float]:
    found = columns(text, "layer")
    return {layer: float(found[layer][7].removesuffix(" dB")) for layer in ("conv2d", "linear")}


def test_what_is_lost_is_of_the_bits_that_the_recipe_gives(tmp_path: Path):
    static = Static(weights=2, layer_bits=(("linear", 4),), kernels="onnxruntime")
    text = told(saved(tmp_path, Recipe((Equalize(), static, CorrectBias(samples=16)))))
    found = columns(text, "layer")
    assert (found["conv2d"][6], found["linear"][6]) == ("W2A8", "W4A4")
    assert decibels(text)["conv2d"] < 15 and decibels(text)["linear"] < 30, "as few bits lose, not as eight"
    assert "by Equalize, Static of the artifact's recipe, without what CorrectBias mended afterwards" in text


def test_bits_that_were_chosen_are_shown(tmp_path: Path):
    text = told(saved(tmp_path, Recipe((Mixed(average=4, choices=(2, 4, 8), static=Static(kernels="onnxruntime")),))))
    found = columns(text, "layer")
    assert {found[layer][6] for layer in ("conv2d", "linear")} <= {"W2A8", "W4A8", "W8A8"}
    assert "by Mixed of the artifact's recipe" in text and decibels(text)["linear"] < 30


def test_weights_alone_have_their_bits_and_what_stays_float_has_none(tmp_path: Path):
    found = columns(told(saved(tmp_path, Recipe((WeightsOnly(bits=4),)))), "layer")
    assert found["layer"][5:7] == ["bits", "SQNR"], "the artifact is in float32: there is one column of times"
    assert found["linear"][5] == "W4" and found["linear"][6].endswith(" dB")
    assert found["conv2d"][5:8] == ["-", "-", "-"]


def test_a_float_bundle_shows_what_eight_bits_would_lose(tmp_path: Path):
    text = told(saved(tmp_path, Recipe()))
    assert columns(text, "layer")["linear"][5] == "W8A8"
    assert "to see what 8 bits would lose: the bundle of this float32 artifact holds no recipe that quantizes" in text


def test_layers_are_of_the_network_that_runs(tmp_path: Path):
    cut, static = Channels(fraction=0.5), Static(weights=3, kernels="onnxruntime")
    bundle = saved(tmp_path, Recipe((cut, static)), Recipe((static,)))
    found = columns(told(bundle), "layer")
    assert found["conv2d"][1] == "1x4x6x6" and found["conv2d"][6] == "W3A8"
    text = told(bundle, "--batch-size", "2")
    assert "holds the network that runs at batch 1, at batch 2 another runs" in text and "SQNR" not in text


def test_one_bit_has_no_losses_and_says_why(tmp_path: Path):
    document = {
        "choices": [{"batch_size": 1, "best": 1, "float_best": 0}],
        "trials": {"1": {"recipe": Recipe((Binary(),)).to_json()}},
    }
    text = told(saved(tmp_path, Recipe(), document=document))
    assert "no losses by layer: layers of one bit are of use only together" in text and "SQNR" not in text


def test_a_damaged_recipe_is_told(tmp_path: Path):
    bundle = saved(tmp_path, Recipe(), document={"choices": [{"batch_size": 1}]})
    done = run("profile", bundle)
    assert done.returncode == 2 and "the description is damaged" in done.stderr, done.stderr


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

"""Hidden values: paired by layer and channel, and a cut student learns faster by them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanly
from leanly.distill import Distill
from leanly.distill.hidden import hidden_pairs
from leanly.errors import LeanlyWarning, SettingError
from leanly.graph import Graph
from leanly.graph.watching import Watched
from leanly.prune import Channels, Layers
from leanly.quantize import Static
from leanly.recipe import Pass, Recipe
from leanly.task import Task
from leanly.training import Settings
from tests.once import once

WIDTH = 8


class Residual(nn.Module):
    """Five residual blocks of convolutions with batch norm, and a head over flattened places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(),
                          nn.Conv2d(WIDTH, WIDTH, 3, padding=1)) for _ in range(5)
        )  # fmt: skip
        self.head = nn.Linear(WIDTH * 4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(torch.max_pool2d(x, 2).view(-1, WIDTH * 4))


@once
def residual() -> tuple[Graph, Task]:
    model, x = Residual().eval(), torch.randn(128, 3, 4, 4)
    with torch.no_grad():
        labels = model(x).argmax(1)
    return leanly.capture(model, example=(x[:2],)), Task(model, example=(x[:2],), train=(x, labels))


def hidden_error(student: Graph, teacher: Graph, task: Task) -> float:
    split = task.split("train")
    assert split is not None
    inputs, _ = next(split.flat_batches(128))
    pairs = hidden_pairs(student, teacher)
    names = [pair.student for pair in pairs], [pair.teacher for pair in pairs]
    with torch.no_grad():
        found, wanted = (
            Watched(graph, named).flat(*inputs)[1:] for graph, named in zip((student, teacher), names, strict=True)
        )
    return sum(float(pair.loss(*values)) for pair, *values in zip(pairs, found, wanted, strict=True))


def test_a_graph_is_paired_with_itself_without_error() -> None:
    graph, _ = residual()
    pairs = hidden_pairs(graph, graph)
    assert len(pairs) == 6 and all(pair.student == pair.teacher and pair.channels is None for pair in pairs)
    value = torch.randn(4, WIDTH, 4, 4)
    assert float(pairs[0].loss(value, value)) == 0.0


def test_what_follows_removed_layers_is_paired_with_what_followed_them() -> None:
    graph, task = residual()
    short = Layers(count=3)(graph, task)
    pairs = hidden_pairs(short, graph)
    assert len(pairs) == 3
    first = [name for name, _ in short.named_parameters() if name.startswith("blocks.") and name.endswith("0.weight")]
    nodes = {node.name: node for node in graph.module.graph.nodes}
    for name, pair in zip(first, pairs, strict=False):
        readers = [str(source.target) for user in nodes[pair.teacher].users for source in user.all_input_nodes]
        assert name in readers


def test_the_channels_that_are_left_are_compared() -> None:
    graph, task = residual()
    thin = Channels(fraction=0.5)(graph, task)
    pairs = hidden_pairs(thin, graph)
    assert len(pairs) == 6
    for pair in pairs:
        assert pair.channels is not None and 0 < len(pair.channels) < 4 * WIDTH
    (first, *_) = pairs
    assert torch.equal(first.channels, thin.kept["stem.weight"][0])  # type: ignore[arg-type]
    batch = graph.example_batch(3)
    with torch.no_grad():
        wanted, found = (
            Watched(graph, [first.teacher]).flat(*batch)[-1],
            Watched(thin, [first.student]).flat(*batch)[-1],
        )
        assert float(first.loss(found, wanted)) < 1e-9, "both computed it from the same inputs"


def test_quantized_students_are_paired_too() -> None:
    graph, task = residual()
    pairs = hidden_pairs(Static(kernels="openvino")(graph, task), graph)
    assert len(pairs) >= 5


@pytest.mark.parametrize("cut", [Layers(count=3), Channels(fraction=0.5)], ids=["layers", "channels"])
def test_hidden_values_come_nearer_to_the_teachers(cut: Pass) -> None:
    graph, task = residual()
    student = cut(graph, task)
    settings = Settings(batch_size=32, precision="float32")
    plain, hinted = (
        Distill(teacher=graph, epochs=8, features=weight, settings=settings)(student, task) for weight in (0.0, 20.0)
    )
    assert hidden_error(hinted, graph, task) < 0.7 * hidden_error(plain, graph, task)


def test_the_student_itself_comes_back() -> None:
    graph, task = residual()
    student = Layers(count=1)(graph, task)
    taught = Distill(teacher=graph, epochs=1, features=1.0)(student, task)
    assert [node.name for node in taught.module.graph.nodes] == [node.name for node in student.module.graph.nodes]
    assert taught.outputs == student.outputs


def test_without_a_pair_it_says_so_and_compares_outputs() -> None:
    graph, task = residual()

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(48, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.own(x.flatten(1))

    x = graph.example[0]
    student = leanly.capture(Other().eval(), example=(x,))
    assert hidden_pairs(student, graph) == ()
    with pytest.warns(LeanlyWarning, match="No hidden value"):
        Distill(teacher=graph, epochs=1, features=1.0)(student, task)


def test_it_is_data_and_out_of_range_it_is_refused() -> None:
    step = Distill(features=20.0)
    assert Recipe.from_json(Recipe((step,)).to_json()).passes == (step,)
    with pytest.raises(SettingError, match="features"):
        Distill(features=-1.0)

"""What holds of every network that lost layers: hand-built equality, a training step, saving, lowering."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import leanly
from leanly.runtimes import open_artifact
from leanly.structure import flatten


def removed(short: leanly.Graph, prefix: str) -> list[int]:
    """Numbers of the layers behind `prefix` whose parameters are gone, all of them."""
    assert set(short.kept.values()) <= {None}
    numbers = {int(found[1]) for name in short.kept if (found := re.match(rf"{re.escape(prefix)}\.(\d+)\.", name))}
    assert all(re.match(rf"{re.escape(prefix)}\.\d+\.", name) for name in short.kept)
    left = set(short.state_dict())
    assert not any(name.startswith(f"{prefix}.{number}.") for name in left for number in numbers)
    return sorted(numbers)


def without(layers: Any, gone: list[int]) -> Any:
    """The same list or sequence without some of its layers."""
    left = [layer for number, layer in enumerate(layers) if number not in gone]
    return nn.ModuleList(left) if isinstance(layers, nn.ModuleList) else nn.Sequential(*left)


def called(model: Any, given: Any) -> Any:
    """Call a model with a dict by keyword, a tuple by position, or one tensor."""
    if isinstance(given, dict):
        return model(**given)
    return model(*given) if isinstance(given, tuple) else model(given)


def assert_same(short: leanly.Graph, reference: nn.Module, inputs: Callable[[int], Any], rows=(1, 3, 8)) -> None:
    """Outputs of the shortened graph are those of a network built by hand from the same layers."""
    reference.eval()
    short.eval()
    for size in rows:
        given = inputs(size)
        with torch.no_grad():
            found, expected = flatten(called(short, given))[1], flatten(called(reference, given))[1]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def assert_trains(short: leanly.Graph) -> None:
    """Every parameter that is left gets a gradient."""
    twin = short.clone().train()
    sum(output.sum() for output in twin.flat(*twin.example) if output.is_floating_point()).backward()
    assert {name for name, parameter in twin.named_parameters() if parameter.grad is None} == set()
    assert not set(short.kept) & {name for name, _ in twin.named_parameters()}


def assert_saved_and_opened(short: leanly.Graph, folder: Path, elsewhere: Callable[[Path], None]) -> None:
    """Another process opens it and computes the same."""
    short.eval().save(folder / "graph")
    save_file({str(place): leaf for place, leaf in enumerate(short.example)}, folder / "inputs.safetensors")
    elsewhere(folder)
    with torch.no_grad():
        torch.testing.assert_close(load_file(folder / "outputs.safetensors")["0"], short.flat(*short.example)[0])
    assert json.loads((folder / "gone.json").read_text()) == dict.fromkeys(short.kept, True)


def assert_lowered(short: leanly.Graph, folder: Path, inputs: Callable[[int], Any]) -> None:
    """The artifact computes what the graph does."""
    artifact = leanly.lower(short.eval(), runtime="onnxruntime", to=folder / "artifact")
    predictor = open_artifact(artifact)
    for size in (1, 5):
        given = inputs(size)
        with torch.no_grad():
            found, expected = flatten(called(predictor, given))[1], flatten(called(short, given))[1]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def spread(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give a new model weights and statistics with which no layer is near to doing nothing."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for buffer in model.buffers():
        if buffer.is_floating_point() and buffer.ndim == 1 and bool((buffer == buffer[0]).all()):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model.eval()


def by_layer(order: list[int], prefix: str) -> Callable[..., dict[str, Tensor]]:
    """An importance that lets the layers behind `prefix` leave in this order."""

    def importance(graph: leanly.Graph, task: Any) -> dict[str, Tensor]:
        found = {}
        for name, parameter in graph.named_parameters():
            matched = re.match(rf"{re.escape(prefix)}\.(\d+)\.", name)
            number = int(matched[1]) if matched else -1
            place = order.index(number) if number in order else len(order) + 1
            found[name] = torch.full_like(parameter, float(place + 1)) / parameter.numel()
        return found

    return importance

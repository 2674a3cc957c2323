"""One bit: what the kernel of signs takes beside 8-bit integers, layer by layer, and what a network loses by it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import leanly
from bench.apart import Training
from bench.drops import points_lost
from bench.entrants import BATCHES, THREADS, outputs_of
from bench.models.subjects import float_outputs, subject_named, taught_task
from bench.rows import Row, at_least, at_most, cached, code_version, told
from leanly.artifact import Artifact, Plan
from leanly.distill import Distill
from leanly.graph import Graph
from leanly.measurement import compare, measure_in_turns
from leanly.measurement.records import Interval
from leanly.quantize import Binary, Static
from leanly.target import Target
from leanly.training import Settings

LAYERS = 4
SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))
"""Channels and height of the images: the stages of ResNet-18 at 224 x 224."""
WIDTHS = (256, 512, 1024, 2048, 4096)
FASTER = 2.0
EPOCHS, LONG = 60, 300
SETTINGS = Settings(batch_size=128, learning_rate=2e-3, weight_decay=0.0, augment=("crop", "flip"), precision="float32")


class Stack(nn.Module):
    """Convolutions of 3 x 3 that keep their shape, between a first and a last layer that stay float."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 1)
        self.layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(LAYERS))
        self.last = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)) + x)
        return self.last(x.mean((2, 3)))


class Rows(nn.Module):
    """Linear layers of one width, between a first and a last one that stay float."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, width), nn.Linear(width, 10)
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return self.last(x)


def kernel_rows(quick: bool = False) -> list[Row]:
    """Time the kernel of signs against the fastest 8-bit integers, a row a shape."""
    found = [
        _kernel_rows(
            f"{LAYERS} convolutions of {channels} channels at {size} x {size}", Stack(channels), (3, size, size)
        )
        for channels, size in (SHAPES[2:3] if quick else SHAPES)
    ]
    widths = WIDTHS[2:3] if quick else WIDTHS
    found += [_kernel_rows(f"{LAYERS} linear layers of {width}", Rows(width), (16,)) for width in widths]
    return [row for rows in found for row in rows]


def _own_kernel(stack: Stack, size: int, batch: int) -> str:
    from bench import runtime_signs

    seconds = runtime_signs.median_seconds(stack.first.out_channels, size, LAYERS, batch)
    if seconds is None:
        return "OpenVINO has none"
    return f"OpenVINO's own convolution of signs, timed alone, {seconds * 1e3:.3f} ms"


def _kernel_rows(name: str, model: nn.Module, shape: tuple[int, ...]) -> list[Row]:
    torch.manual_seed(0)
    x = torch.randn(16, *shape)
    task = leanly.Task(model.eval(), example=x[:2], train=(x, torch.arange(16) % 10))
    graph = leanly.capture(model, example=x[:2])
    found = []
    with tempfile.TemporaryDirectory() as folder:
        integers = []
        for runtime in ("onnxruntime", "openvino"):
            quantized = Static(kernels=runtime)(graph, task)
            integers.append(_planned(leanly.lower(quantized, runtime=runtime, to=Path(folder) / runtime)))
        binary = Binary(shortcuts=False)(graph, task).eval()
        try:
            signs = _planned(leanly.lower(binary, runtime="openvino", precision="binary", to=Path(folder) / "signs"))
        except leanly.LeanlyError as error:
            return [_not_offered(name, str(error))]
        for batch in BATCHES:
            target = Target("cpu", threads=THREADS, batch_sizes=(batch,))
            measured = measure_in_turns(integers, target)
            fastest = min(zip(measured, integers, strict=True), key=lambda pair: pair[0].latency[batch].median)[1]
            comparison = compare(fastest, signs, target)
            ratio = comparison.ratio[batch]
            times = [part.latency[batch].median * 1e3 for part in (comparison.a, comparison.b)]
            aim = FASTER if batch == 1 else 1.0
            own = [_own_kernel(model, shape[1], batch)] if isinstance(model, Stack) else []
            found.append(
                Row(
                    name=f"{name}, batch {batch}: one bit over int8",
                    reached=ratio,
                    unit="x",
                    aim=f">= {aim:g}",
                    peer=f"int8, {fastest.runtime}",
                    seeds=1,
                    outcome=at_least(ratio, aim),
                    note="; ".join([f"int8 {times[0]:.3f} ms, one bit {times[1]:.3f} ms", *own]),
                )
            )
    return found


def _planned(artifact: Artifact) -> Artifact:
    """Compile for the batch where the runtime can, which is the fastest for both."""
    plans = {size: Plan(threads=THREADS, static=artifact.runtime == "openvino") for size in BATCHES}
    return artifact.with_plans(plans)


def _not_offered(name: str, why: str) -> Row:
    return Row(f"{name}: one bit", Interval(1.0, 1.0, 1.0), "x (runs as int8)", "not offered", "", 1, "ok", why)


def training(activations: int, data_dir: Path, epochs: int) -> Training:
    """Return the training of ResNet-20 in one bit from its float weights, taught by it."""

    def make(device: str, folder: Path) -> Graph:
        torch.set_num_threads(THREADS)
        subject = subject_named("resnet20")
        assert subject.train is not None
        task = taught_task(subject.model(data_dir), subject.train(data_dir), subject.validation(data_dir))
        student = Binary(activations=activations)(leanly.capture(task.model, example=task.example), task)
        teach = Distill(epochs=epochs, alpha=0.9, settings=SETTINGS, folder=folder, progress=told("one bit"))
        return teach(student.to(device), task)

    code = code_version(__file__, rooms=("distill", "graph", "quantize", "training"))
    return Training(f"W1A{activations}-{epochs}", {"activations": activations, "epochs": epochs, "code": code}, make)


def rows(activations: int, data_dir: Path, *, epochs: int, aim: float) -> list[Row]:
    """Train ResNet-20 in one bit and score it as OpenVINO runs it."""
    subject, trained = subject_named("resnet20"), training(activations, data_dir, epochs)
    test = subject.test(data_dir)

    def run() -> dict[str, list[float]]:
        artifact = leanly.lower(trained.graph(), runtime="openvino", to=trained.folder / "lowered")
        logits = outputs_of(artifact, test.inputs, THREADS)
        return {"right": (logits.argmax(1) == test.targets).astype(float).tolist(), "bytes": [artifact.payload_bytes]}

    found = cached(f"one-bit-{activations}-{epochs}", trained.key, run)
    whole = (float_outputs(subject.model(data_dir), test.inputs).argmax(1) == test.targets).astype(float)
    reached = points_lost(whole, np.array(found["right"]), aim)
    return [
        Row(
            name=f"W1A{activations}, ResNet-20, {epochs} epochs: drop",
            reached=reached,
            unit="points of accuracy lost",
            aim=f"<= {aim:g}",
            peer="published: IR-Net 0.9 / 5.2, AdaBin 3.7",
            seeds=1,
            outcome=at_most(reached, aim),
            note=f"payload {found['bytes'][0] / 1000:.1f} kB; {trained.told}",
        )
    ]

"""Cuts without any training: ResNet-56 on 500 unlabelled rows against Torch-Pruning, and every criterion beside it.

Where a criterion reads labels it is given the classes that the network itself predicts, leanly's and Torch-Pruning's.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import leanly
from bench.entrants import THREADS
from bench.models.cifar_resnet import Block
from bench.models.subjects import Rows, Subject, float_outputs, spread, subject_named
from bench.rows import Row, at_most, cached, code_version, print_lines, versions
from leanly.graph import Graph
from leanly.measurement.records import Interval
from leanly.prune import (
    Channels,
    Refit,
    activation_entropy,
    batch_norm_scale,
    expected_gradient,
    fisher,
    geometric_median,
    gradient,
    lamp,
    magnitude,
    magnitude_l1,
    random,
    second_order,
    weight_entropy,
)
from leanly.training import BatchNorm

tp: Any = importlib.import_module("torch_pruning")
SAMPLES, DRAWS = 500, 3
GONE = 1 / 3
"""Of the MACs: 1.5x fewer are left."""
BOOTSTRAP = 2000
DEFAULT = expected_gradient
CRITERIA = (
    magnitude, magnitude_l1, batch_norm_scale, geometric_median, weight_entropy, activation_entropy, gradient,
    expected_gradient, fisher, second_order, lamp, random,
)  # fmt: skip
NEAR = 0.01
"""Torch-Pruning's ratio is searched until the MACs that left are this near to what was asked for, as a share."""
ROOMS = ("graph", "prune", "training")
ROWS_AT_ONCE, ROWS_READ = 32, 512


def few_samples(data_dir: Path, draws: int = DRAWS) -> list[Row]:
    """Return the drop without training, and the table of criteria."""
    subject = subject_named("resnet56")
    validation, test = subject.validation(data_dir), subject.test(data_dir)
    rows = Rows((np.concatenate([validation.inputs[0], test.inputs[0]]),), np.r_[validation.targets, test.targets])
    count = len(validation)
    ways = {criterion.__name__: _ours(criterion) for criterion in CRITERIA}
    ours = {name: _scored("ours", name, way, subject, data_dir, rows, draws) for name, way in ways.items()}
    theirs = {name: _scored("peer", name, way, subject, data_dir, rows, draws) for name, way in _peers()}
    whole = (float_outputs(subject.model(data_dir), rows.inputs).argmax(1) == rows.targets).astype(float)
    mine = max(ours, key=lambda name: ours[name][:, :count].mean())
    best = max(theirs, key=lambda name: theirs[name][:, :count].mean())
    everyone = {**ours, **{f"Torch-Pruning {name}": right for name, right in theirs.items()}}
    lines = [
        [name, *(f"{100 * (whole[part].mean() - right[:, part].mean()):.2f}" for part in np.s_[:count, count:])]
        for name, right in sorted(everyone.items(), key=lambda item: -item[1][:, :count].mean())
    ]
    title = f"ResNet-56, {SAMPLES} rows, no training, 1.5x fewer MACs: points of accuracy lost"
    print_lines(title, ("criterion", "validation", "test"), lines)
    whole, left, other = whole[count:], ours[mine][:, count:], theirs[best][:, count:]
    default = ours[DEFAULT.__name__][:, count:]
    leading = max(ours, key=lambda name: ours[name][:, count:].mean())
    return [
        _half_row(whole, left, other, f"{mine} and Refit", best),
        _default_row(default, ours[leading][:, count:], leading),
    ]


def _half_row(whole: np.ndarray, ours: np.ndarray, theirs: np.ndarray, mine: str, best: str) -> Row:
    drops = _drawn(len(whole), lambda pick: 100 * (whole[pick].mean() - ours[:, pick].mean()))
    # lost by leanly less half of what the peer lost
    beyond = _drawn(
        len(whole), lambda pick: 100 * ((whole[pick] + theirs[:, pick].mean(0)) / 2 - ours[:, pick].mean(0)).mean()
    )
    peer = 100 * (whole.mean() - theirs.mean())
    return Row(
        name=f"ResNet-56, {SAMPLES} rows without labels, no training, 1.5x fewer MACs",
        reached=drops,
        unit="points of accuracy lost",
        aim=f"<= half of Torch-Pruning's: {peer / 2:.2f}",
        peer=f"Torch-Pruning, {best}, batch norm taken anew: {peer:.2f}",
        seeds=len(ours),
        outcome=at_most(beyond, 0.0),
        note=f"{mine}, chosen on validation; accuracy {ours.mean():.2%}",
        facts={"beyond the aim": [beyond.value, beyond.low, beyond.high]},
    )


def _default_row(default: np.ndarray, leading: np.ndarray, name: str) -> Row:
    behind = _drawn(default.shape[1], lambda pick: 100 * (leading[:, pick].mean() - default[:, pick].mean()))
    return Row(
        name="the default criterion behind the best of all on the same cut",
        reached=behind,
        unit="points of accuracy",
        aim="within noise of the best: 0 in the interval",
        peer=f"{name}, the best on test",
        seeds=len(default),
        outcome="ok" if behind.low <= 0 else "short",
        note=f"the default is {DEFAULT.__name__}",
    )


def _drawn(count: int, value: Callable[[Any], float]) -> Interval:
    """Return a value over all rows with its 95 % interval over rows drawn anew."""
    generator = np.random.default_rng(0)
    drawn = [value(generator.integers(0, count, count)) for _ in range(BOOTSTRAP)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(float(value(slice(None))), float(low), float(high))


Way = Callable[[nn.Module, leanly.Task], Graph]


def _scored(who: str, name: str, way: Way, subject: Subject, data_dir: Path, rows: Rows, draws: int) -> np.ndarray:
    """Return for each draw of the samples whether each row is right."""

    def run(draw: int) -> list[float]:
        torch.set_num_threads(THREADS)
        assert subject.train is not None
        train = subject.train(data_dir)
        picked = spread(len(train), SAMPLES) if not draw else _picked(len(train), draw)
        model = subject.model(data_dir)
        inputs = torch.from_numpy(train.inputs[0][picked])
        predicted = torch.from_numpy(float_outputs(model, (train.inputs[0][picked],)).argmax(1))
        task = leanly.Task(model, example=inputs[:2], train=(inputs, predicted))
        graph = way(model, task).eval()
        return (float_outputs(graph, rows.inputs).argmax(1) == rows.targets).astype(float).tolist()

    code = code_version(__file__, rooms=ROOMS)
    more = {"gone": GONE, "samples": SAMPLES, "code": code, **versions("torch-pruning", "torch")}
    found = []
    for draw in range(draws):
        found.append(cached("untrained", {"who": who, "way": name, "draw": draw, **more}, lambda draw=draw: run(draw)))
        print(f"{who} {name}, draw {draw}: {np.mean(found[-1]):.4f}", flush=True)
    return np.array(found)


def _picked(count: int, draw: int) -> np.ndarray:
    return np.sort(np.random.default_rng(draw).choice(count, SAMPLES, replace=False))


def _ours(criterion: Callable[..., Any]) -> Way:
    def way(model: nn.Module, task: leanly.Task) -> Graph:
        graph = leanly.capture(model, example=task.example).eval()
        small = Channels(macs=GONE, importance=criterion)(graph, task)
        return Refit(samples=SAMPLES)(small, task)

    return way


def _peers() -> Iterator[tuple[str, Way]]:
    """Torch-Pruning's criteria, over the whole network and layer by layer."""
    for criterion, together in itertools.product(THEIRS, (True, False)):
        yield f"{criterion.name}, {'global' if together else 'by layer'}", their_way(criterion, together)


@dataclass(frozen=True)
class Theirs:
    """A criterion of Torch-Pruning.

    Args:
        name: in tables.
        make: makes the importance.
        power: of the slopes of the loss that it reads: 0 none, 1 their mean over rows, 2 the mean of their squares.
    """

    name: str
    make: Callable[[], Any]
    power: int = 0


THEIRS = (
    Theirs("magnitude L2", lambda: tp.importance.GroupMagnitudeImportance(p=2)),
    Theirs("magnitude L1", lambda: tp.importance.GroupMagnitudeImportance(p=1)),
    Theirs("batch norm scale", lambda: tp.importance.BNScaleImportance()),
    Theirs("geometric median", lambda: tp.importance.FPGMImportance()),
    Theirs("LAMP", lambda: tp.importance.LAMPImportance()),
    Theirs("Taylor", lambda: tp.importance.GroupTaylorImportance(), 1),
    Theirs("Hessian", lambda: tp.importance.GroupHessianImportance(), 2),
)


def their_way(criterion: Theirs, together: bool, gone: float = GONE) -> Way:
    """Return what cuts a network by one of Torch-Pruning's criteria and takes its batch norm anew.

    Args:
        criterion: one of `THEIRS`.
        together: whether layers compete with each other.
        gone: share of the MACs.
    """

    def way(model: nn.Module, task: leanly.Task) -> Graph:
        small = _their_cut(model, task, criterion, gone, together)
        return BatchNorm()(leanly.capture(small, example=task.example).eval(), task)

    return way


def _their_cut(model: nn.Module, task: leanly.Task, criterion: Theirs, gone: float, together: bool) -> nn.Module:
    """Return a CIFAR ResNet that Torch-Pruning cut until this share of the MACs left, or nearly."""
    (example,) = task.arguments.tensors
    whole, _ = tp.utils.count_ops_and_params(model, example)
    slopes = _slopes(model, task, criterion.power) if criterion.power else {}
    low, high = 0.0, 1.0
    small = model
    for _ in range(12):
        ratio = (low + high) / 2
        small = _cut(model, example, criterion.make(), ratio, together, slopes)
        left = 1 - tp.utils.count_ops_and_params(small, example)[0] / whole
        if abs(left - gone) <= NEAR * gone:
            break
        low, high = (ratio, high) if left < gone else (low, ratio)
    return small


def _slopes(model: nn.Module, task: leanly.Task, power: int) -> dict[str, torch.Tensor]:
    """Return the slopes of the loss on as many rows as leanly's criteria read: their mean, or that of their squares."""
    split = task.seen_split()
    assert split is not None
    model = copy.deepcopy(model).eval()
    total = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    rows = 0
    for (inputs,), targets in split.flat_batches(1 if power == 2 else ROWS_AT_ONCE, ROWS_READ):
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets, reduction="sum").backward()
        rows += len(targets)
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            total[name] += weight.grad**power
    return {name: summed / rows for name, summed in total.items()}


def _cut(
    model: nn.Module,
    example: torch.Tensor,
    importance: Any,
    ratio: float,
    together: bool,
    slopes: dict[str, torch.Tensor],
) -> nn.Module:
    model = copy.deepcopy(model).eval()
    named = dict(model.named_modules())
    for name, slope in slopes.items():
        model.get_parameter(name).grad = slope.clone()
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # a cut through the padded shortcuts ends in a network that does not run
        tp.pruner.BasePruner(
            model,
            example,
            importance=importance,
            global_pruning=together,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            ignored_layers=[named["linear"], named["conv1"], *(block.conv2 for block in blocks)],
        ).step()
    return model

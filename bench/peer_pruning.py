"""Torch-Pruning's way: cut by its group magnitude, taught by leanly's own loop in the same time, quantized by NNCF.

It is given what it needs: the small CNN without its hard-coded `view`, whole heads in attention, and in the CIFAR
ResNets only the inner channels, since a cut through their padded shortcuts ends in a network that does not run.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import leanly
from bench import peers
from bench.contest import Ground, Settings, choose_field
from bench.entrants import Entrant
from bench.models.cifar_resnet import Block, CifarResNet
from bench.models.small_cnn import SmallCNN
from bench.ours import task
from bench.rows import cached, code_version
from leanly.budget import read_time
from leanly.distill import Distill
from leanly.families.teaching import settings_for
from leanly.files import digest
from leanly.graph import Graph
from leanly.training import BatchNorm
from leanly.training.evaluation import evaluate

tp: Any = importlib.import_module("torch_pruning")
FAMILY = "Torch-Pruning"
SHARES = (0.5, 0.7, 0.85)
"""Of the MACs that are cut; each network is taught alike at first."""
FIRST = 1 / 3
"""Share of the time that the first round of teaching takes; the smallest network that may get there gets the rest."""
MAX_POINTS = 0.01
PROMISING = 3.0
"""A network that lost at most this many times what it may lose is worth the rest of the time."""
MOST_EPOCHS = 64
MULTIPLES = (8, 4, 1)
"""What widths are multiples of, the best first: integer kernels work through channels in groups. A multiple
that a narrow layer can't keep leaves that layer whole."""
RATIOS = [number / 20 for number in range(2, 20)]
NEAR = 0.1
"""A way may miss the share asked for by this share of it."""


@dataclass(frozen=True)
class Pruned:
    """A network that Torch-Pruning cut, and its weights after teaching."""

    label: str
    share: float
    ratio: float
    multiple: int
    weights: str
    metric: float


class NoHeadsLeft(ValueError):
    """Torch-Pruning took every head of an attention: such a network does not run."""


class FlatCNN(SmallCNN):
    """The small CNN, its flattened size read from the data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ten logits an image."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def pruned_entrants(
    ground: Ground, data_dir: Path, settings: Settings, *, time: str, seed: int
) -> tuple[list[Entrant], dict[str, Any]]:
    """Cut, teach and quantize; return the files of the networks that lost no more than they may, and facts."""
    subject = ground.subject
    key = {
        "subject": subject.name,
        "time": time,
        "seed": seed,
        "shares": SHARES,
        "code": code_version(__file__, rooms=("graph", "training", "distill")),
        "torch-pruning": tp.__version__,
    }
    folder = peers.work(subject) / "torch-pruning" / digest(key)[:16]
    facts = cached(f"pruned-{subject.name}", key, lambda: _taught(ground, data_dir, folder, read_time(time), seed))
    networks = [Pruned(**data) for data in facts["networks"]]
    inside = [network for network in networks if network.metric >= facts["original"] - MAX_POINTS]
    if settings.quick:  # the last of those that are cut furthest was taught the longest
        inside = sorted(inside, key=lambda network: network.share)[-1:]
    found: list[Entrant] = []
    # where none is, the most accurate races all the same, and the row of its drop says what it lost
    for network in inside or [max(networks, key=lambda network: network.metric)]:
        allowed = max(facts["original"] - network.metric, 0.0) + MAX_POINTS
        found.extend(_quantized(ground, data_dir, folder, network, dataclasses.replace(settings, max_drop=allowed)))
    return found, facts


def _taught(ground: Ground, data_dir: Path, folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Teach every cut a while, then the most promising one for the rest of the time."""
    subject = ground.subject
    assert subject.train is not None
    folder.mkdir(parents=True, exist_ok=True)
    original = subject.model(data_dir)
    found = ways(original, _example(ground))
    began = time.monotonic()
    about = task(ground, subject.train(data_dir), original)
    teacher = leanly.capture(original, example=_example(ground)).eval()
    settings = dataclasses.replace(settings_for(teacher, about), seed=seed)
    reference = _validation(teacher, about)
    networks: list[Pruned] = []
    graphs: dict[Way, Graph] = {}
    chosen = list(dict.fromkeys(nearest_way(found, share) for share in SHARES))
    for way in chosen:
        module = prune(original, _example(ground), way.ratio, way.multiple)
        graph = BatchNorm()(leanly.capture(module, example=_example(ground)), about)
        left = FIRST * seconds - (time.monotonic() - began)
        each = max(left, 1.0) / (len(chosen) - len(graphs))
        graphs[way] = Distill(epochs=MOST_EPOCHS, time=each, settings=settings)(graph, about)
        networks.append(_kept(f"{way.gone:.0%} of MACs", way, graphs[way], about, folder))
        print(f"{subject.name}: Torch-Pruning {networks[-1].label}: {networks[-1].metric:.4f}", flush=True)
    allowed = reference - PROMISING * MAX_POINTS
    promising = [way for way, network in zip(chosen, networks, strict=True) if network.metric >= allowed] or chosen[:1]
    way = max(promising, key=lambda way: way.gone)
    left = seconds - (time.monotonic() - began)
    teach = Distill(epochs=MOST_EPOCHS, time=max(left, 1.0), settings=settings)
    graph = teach(graphs[way], about)
    networks.append(_kept(f"{way.gone:.0%} of MACs, taught on", way, graph, about, folder))
    print(f"{subject.name}: Torch-Pruning {networks[-1].label}: {networks[-1].metric:.4f}", flush=True)
    return {
        "original": reference,
        "networks": [dataclasses.asdict(network) for network in networks],
        "seconds": time.monotonic() - began,
    }


def _validation(graph: Graph, about: leanly.Task) -> float:
    split = about.split("validation")
    assert split is not None
    return evaluate(graph, about, split)


def _kept(label: str, way: Way, graph: Graph, about: leanly.Task, folder: Path) -> Pruned:
    name = f"{digest(label)[:8]}.safetensors"
    state = {key: tensor.detach().clone().contiguous() for key, tensor in graph.state_dict().items()}
    save_file(state, folder / name)
    return Pruned(label, way.gone, way.ratio, way.multiple, name, _validation(graph, about))


def _quantized(ground: Ground, data_dir: Path, folder: Path, entry: Pruned, settings: Settings) -> Iterator[Entrant]:
    """Make NNCF's and ONNX Runtime's int8 of a pruned network, as of any other; in float it may be faster still."""
    whole = ground.subject

    def model(_: Path) -> nn.Module:
        module = prune(whole.model(data_dir), _example(ground), entry.ratio, entry.multiple)
        module.load_state_dict(load_file(folder / entry.weights), strict=False)
        return module.eval()

    subject = dataclasses.replace(
        whole, name=f"{whole.name}-pruned-{folder.name}-{digest(entry.label)[:8]}", model=model
    )
    peers.prepare(subject, data_dir)
    field = choose_field(dataclasses.replace(ground, subject=subject), dataclasses.replace(settings, quick=True))
    for entrant in field.finalists:
        yield dataclasses.replace(entrant, family=FAMILY, name=f"{entry.label}, {entrant.label}")


@dataclass(frozen=True)
class Way:
    """Settings of Torch-Pruning and the share of the MACs that goes with them."""

    multiple: int
    ratio: float
    gone: float


def ways(model: nn.Module, example: tuple[torch.Tensor, ...]) -> list[Way]:
    """Try all ratios and multiples: rounding makes what a ratio takes off neither even nor steady."""
    whole, _ = tp.utils.count_ops_and_params(model, _inputs(example))
    found = []
    for multiple in MULTIPLES:
        for ratio in RATIOS:
            try:
                small = prune(model, example, ratio, multiple)
            except NoHeadsLeft:
                continue
            left, _ = tp.utils.count_ops_and_params(small, _inputs(example))
            found.append(Way(multiple, ratio, 1 - left / whole))
    return found


def nearest_way(found: list[Way], share: float) -> Way:
    """Return the way to about this share with the widest multiple; where none comes near, the nearest."""
    near = [way for way in found if abs(way.gone - share) <= NEAR * share]
    widest = max((way.multiple for way in near), default=None)
    usable = [way for way in near if way.multiple == widest] or found
    return min(usable, key=lambda way: abs(way.gone - share))


def prune(model: nn.Module, example: tuple[torch.Tensor, ...], ratio: float, multiple: int) -> nn.Module:
    """Return a copy with this ratio of its channels cut by Torch-Pruning; the same one each time.

    Raises:
        NoHeadsLeft: an attention has lost all its heads.
    """
    if isinstance(model, SmallCNN):
        flat = FlatCNN()
        flat.load_state_dict(model.state_dict())
        model = flat
    model = copy.deepcopy(model).eval()
    heads = {
        layer: module.num_attention_heads
        for module in model.modules()
        if hasattr(module, "num_attention_heads") and hasattr(module, "query")
        for layer in (module.query, module.key, module.value)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            model,
            _inputs(example),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.95,
            round_to=multiple,
            ignored_layers=_left_alone(model),
            num_heads=dict(heads),
            prune_num_heads=bool(heads),
            prune_head_dims=False,
            head_pruning_ratio=ratio if heads else 0.0,
        )
        pruner.step()
    attention: Any
    for attention in model.modules():
        if hasattr(attention, "num_attention_heads") and hasattr(attention, "query"):
            if pruner.num_heads[attention.query] < 1:
                raise NoHeadsLeft(f"a ratio of {ratio:g} leaves an attention without heads")
            attention.num_attention_heads = pruner.num_heads[attention.query]
            attention.all_head_size = attention.query.out_features
            attention.attention_head_size = attention.query.out_features // attention.num_attention_heads
    return model


def _left_alone(model: nn.Module) -> list[nn.Module]:
    """The outputs; in CIFAR's ResNets what the padded shortcuts tie together as well."""
    heads = [model.get_submodule(name) for name in ("fc2", "linear", "head") if hasattr(model, name)]
    if isinstance(model, CifarResNet):
        return [*heads, model.conv1, *(block.conv2 for block in model.modules() if isinstance(block, Block))]
    return heads


def _inputs(example: tuple[torch.Tensor, ...]) -> Any:
    return example[0] if len(example) == 1 else tuple(example)


def _example(ground: Ground) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(array[:2])) for array in ground.validation.inputs)

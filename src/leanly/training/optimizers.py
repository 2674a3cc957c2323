"""The optimizers known by name, with what their weight decay leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leanly.errors import SettingError
from leanly.graph import Graph

if TYPE_CHECKING:
    from leanly.training.settings import Settings

MOMENTUM = 0.9
QUANTIZERS = "quantizers."
"""How the names of a quantizer's tensors begin."""
RATES = {"sgd": 0.1, "adamw": 1e-3}
DECAYS = {"sgd": 5e-4, "adamw": 1e-2}
STEPS_SHARE = 0.1
"""Of the learning rate, for the steps of quantizers: each moves whole tensors, and all of them drift one way together.
At two bits ResNet-20 learns next to nothing at the full rate (36 % after 150 steps, against 73 %)."""
ATTENTION_RATE = 1e-4
"""Transformers that were trained before forget at 1e-3."""

Groups = list[dict[str, Any]]


def sgd(groups: Groups, rate: float, fused: bool) -> Optimizer:
    """Stochastic gradient descent with Nesterov's momentum (Sutskever et al. 2013)."""
    return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True, fused=fused)


def adamw(groups: Groups, rate: float, fused: bool) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(groups, lr=rate, fused=fused)


OPTIMIZERS: dict[str, Callable[[Groups, float, bool], Optimizer]] = {
    function.__name__: function for function in (adamw, sgd)
}


def make_optimizer(graph: Graph, settings: Settings) -> Optimizer:
    """Return the optimizer of the trainable parameters; those of fewer than two dimensions do not decay.

    Raises:
        SettingError: no parameter can be trained.
    """
    trainable = [parameter for parameter in graph.parameters() if parameter.requires_grad]
    if not trainable:
        raise SettingError(
            "the network has no parameter that can be trained",
            where="the graph's parameters",
            remedy="capture a module whose parameters have requires_grad=True",
        )
    decay = DECAYS[settings.optimizer] if settings.weight_decay is None else settings.weight_decay
    rate = default_rate(graph, settings.optimizer) if settings.learning_rate is None else settings.learning_rate
    quantizers = [p for name, p in graph.named_parameters() if p.requires_grad and name.startswith(QUANTIZERS)]
    if quantizers and settings.optimizer == "sgd":
        raise SettingError(
            "the steps of quantizers can't be learned by sgd: their gradients are sums over whole tensors",
            where="Settings.optimizer",
            remedy='use optimizer="adamw", or leave quantize.LearnSteps out',
        )
    others = [p for p in trainable if not any(p is quantizer for quantizer in quantizers)]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        # a step moves by a share of itself, whatever the unit of what it counts
        *({"params": [p], "weight_decay": 0.0, "lr": STEPS_SHARE * rate * _size(p)} for p in quantizers),
    ]
    groups = [group for group in groups if group["params"]]
    return OPTIMIZERS[settings.optimizer](groups, rate, all(map(_fusable, trainable)))


def default_rate(graph: Graph, optimizer: str) -> float:
    """Return the learning rate of an optimizer where none is given."""
    called = " ".join(str(node.target) for node in graph.module.graph.nodes)
    # attention is one operator, or written out as quantizers and eager models have it
    attends = "scaled_dot_product_attention" in called or ("softmax" in called and "matmul" in called)
    return ATTENTION_RATE if optimizer == "adamw" and attends else RATES[optimizer]


def _size(parameter: Tensor) -> float:
    return max(float(parameter.detach().abs().mean()), 1e-12)


def _fusable(parameter: Tensor) -> bool:
    return parameter.dtype == torch.float32 and parameter.device.type in ("cpu", "cuda")

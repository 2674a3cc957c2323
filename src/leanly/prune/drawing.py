"""Drawing: labels as the network itself expects them, for slopes without any labels of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from leanly.errors import DataError
from leanly.graph import Graph
from leanly.metrics import first_output
from leanly.structure import build
from leanly.task import Task

SEED = 0


class Drawn:
    """The loss on labels that are drawn, the mean over rows; what is drawn follows from the order of the calls alone.

    Args:
        task: whose loss tells what is drawn: classes of `(rows, classes)` for cross-entropy and the divergence, 0 or 1
            for binary cross-entropy, and for every other loss the outputs with noise.
    """

    def __init__(self, task: Task) -> None:
        self._loss, self._where = task.loss, f"the outputs of {task.name}"
        self._generator = torch.Generator().manual_seed(SEED)

    def __call__(self, graph: Graph, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the loss on flat outputs; the targets are not read.

        Raises:
            DataError: no output has a slope.
        """
        main = first_output(build(graph.returns, list(outputs)))
        if self._loss in ("cross_entropy", "kl") and main.ndim == 2 and main.shape[1] > 1:
            chances = main.detach().float().softmax(1).cpu()
            classes = torch.multinomial(chances, 1, generator=self._generator).squeeze(1)
            loss = F.cross_entropy(main, classes.to(main.device))
        elif self._loss == "binary_cross_entropy":
            yes = torch.bernoulli(main.detach().float().sigmoid().cpu(), generator=self._generator)
            loss = F.binary_cross_entropy_with_logits(main, yes.to(main))
        else:
            loss = sum((self._with_noise(outputs[place]) for place in float_outputs(graph)), torch.zeros(()))
        if not loss.requires_grad:
            raise DataError(
                "no output has a slope",
                where=self._where,
                remedy="capture the network without the argmax or rounding at its end, or use leanly.prune.magnitude",
            )
        return loss

    def _with_noise(self, output: Tensor) -> Tensor:
        """Return the slope of the squared error, in units of the output's own spread, times the output."""
        noise = torch.randn(output.shape, generator=self._generator).to(output)
        return (noise * output).sum() / (len(output) * output.detach().std(correction=0).clamp(min=1e-12))


def float_outputs(graph: Graph) -> list[int]:
    """Return the places of the flat outputs that are numbers with a fraction."""
    return [place for place, spec in enumerate(graph.outputs) if "float" in spec.dtype]

"""Drawing: labels as the network itself expects them, for slopes without any labels of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from leanly.data import Split
from leanly.errors import DataError
from leanly.graph import Graph
from leanly.graph.rows import checked_batches
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
        self._spreads: dict[int, float] = {}

    def __call__(self, graph: Graph, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the loss on flat outputs; the targets are not read.

        Raises:
            DataError: no output has a slope, or there is NaN among them.
        """
        sloping = [place for place, output in enumerate(outputs) if output.requires_grad]
        if not sloping:
            raise DataError(
                "no output has a slope",
                where=self._where,
                remedy="capture the network without the argmax or rounding at its end, or use leanly.prune.magnitude",
            )
        main = first_output(build(graph.returns, list(outputs)))
        if self._loss in ("cross_entropy", "kl") and main.requires_grad and main.ndim == 2 and main.shape[1] > 1:
            chances = self._chances(main.detach().float().softmax(1))
            classes = torch.multinomial(chances, 1, generator=self._generator).squeeze(1)
            return F.cross_entropy(main, classes.to(main.device))
        if self._loss == "binary_cross_entropy" and main.requires_grad:
            yes = torch.bernoulli(self._chances(main.detach().float().sigmoid()), generator=self._generator)
            return F.binary_cross_entropy_with_logits(main, yes.to(main))
        rows = len(targets)
        return torch.stack([self._with_noise(place, outputs[place]) / rows for place in sloping]).sum()

    def _chances(self, chances: Tensor) -> Tensor:
        """Return them on the CPU, where they can be drawn by."""
        if not bool(chances.isfinite().all()):
            raise DataError(
                "the network makes NaN or infinity of some rows",
                where=self._where,
                remedy="take such rows out, or use leanly.prune.magnitude, which needs none",
            )
        return chances.cpu()

    def _with_noise(self, place: int, output: Tensor) -> Tensor:
        """Return the slope of the squared error, in units of the output's own spread, times the output."""
        output = output.float()
        finite = output.isfinite()
        output = torch.where(finite, output, 0.0)
        if place not in self._spreads:
            spread = float(output.detach()[finite].std(correction=0))
            self._spreads[place] = spread if spread > 0 else 1.0
        noise = torch.randn(output.shape, generator=self._generator).to(output)
        return (noise * output).sum() / self._spreads[place]


def has_slope(graph: Graph, split: Split) -> bool:
    """Say whether an output follows the parameters smoothly, by the first row."""
    inputs, _ = next(checked_batches(graph, split, 1, 1))
    twin = graph.clone().eval()
    with torch.inference_mode(False), torch.enable_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_()
        return any(output.requires_grad for output in twin.flat(*(tensor.to(twin.device) for tensor in inputs)))

"""How far the outputs of a network move with the values inside it: by this an error there is weighed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from leanly.graph.graph import Graph
from leanly.graph.watching import Watched


def output_slopes(
    graph: Graph, names: Sequence[str], batches: Iterable[Sequence[Tensor]]
) -> Iterator[dict[str, Tensor]]:
    """Yield for each batch the slopes of a random sum of the outputs along the values of some nodes.

    With signs of plus and minus one their squares are on average the squares of the Jacobian, summed over the outputs
    (Hutchinson 1990, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing Splines").
    Nodes that no output follows from are left out.

    Args:
        graph: in evaluation mode.
        names: of nodes that are computed with parameters, one tensor each with the rows in front.
        batches: flat inputs of the graph, some rows each.
    """
    graph = graph.clone()
    for parameter in graph.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    watched = Watched(graph, names)
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        with torch.enable_grad():
            found = watched.flat(*batch)
        values = found[len(graph.outputs) :]
        outputs = [output for output in found[: len(graph.outputs)] if output.requires_grad]
        if not outputs:
            return
        signs = [torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1 for output in outputs]
        slopes = torch.autograd.grad(outputs, values, signs, allow_unused=True)
        yield {name: slope for name, slope in zip(names, slopes, strict=True) if slope is not None}

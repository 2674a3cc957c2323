"""What a cut removed, as zeros in the whole network: with them it must give what the cut network gives."""

from __future__ import annotations

import torch

from leanly.graph import Graph, tensors


def zeroed(graph: Graph, small: Graph) -> Graph:
    """Return the graph with everything zero that `small.kept` says is gone."""
    clone = graph.clone()
    every = tensors.every(clone.module)
    with torch.no_grad():
        for name, kept in small.kept.items():
            for dim, indices in enumerate(kept):
                if indices is not None:
                    gone = torch.ones(every[name].shape[dim], dtype=torch.bool)
                    gone[indices] = False
                    every[name].index_fill_(dim, gone.nonzero().flatten(), 0)
    return clone

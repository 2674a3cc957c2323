"""The weights of convolutions and linear layers, for passes that change them where they are."""

from __future__ import annotations

from collections.abc import Collection

import torch

from leanly.graph.checking import check_nodes
from leanly.graph.graph import Graph
from leanly.graph.nodes import argument, reads_tensor

aten = torch.ops.aten
LAYERS = frozenset({
    aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding,
    aten.conv3d.padding, aten.linear.default,
})  # fmt: skip


def layer_weights(graph: Graph, dense: Collection[str], where: str) -> dict[str, str]:
    """Return the names of the weights of layers, each with the node that reads it, without those of the dense nodes.

    Args:
        graph: any.
        dense: names of nodes.
        where: for messages.

    Raises:
        SettingError: a dense node does not exist.
    """
    check_nodes(graph, "dense", dense, where)
    return {
        str(argument(node, "weight").target): node.name
        for node in graph.module.graph.nodes
        if node.target in LAYERS and reads_tensor(argument(node, "weight")) and node.name not in dense
    }

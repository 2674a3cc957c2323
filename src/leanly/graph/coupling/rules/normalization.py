"""Norms: which statistics run over which dimensions, and where the scales stand."""

from __future__ import annotations

from torch import fx

from leanly.graph.coupling.variables import Dims
from leanly.graph.coupling.wiring import Wiring
from leanly.graph.nodes import argument, argument_names


def channel_norm(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Normalize each channel by itself (batch norm, instance norm): a channel's scale and statistics go with it.

    Where no statistics are stored they are those of the other dimensions: weights are standardized so.
    """
    x = wiring.dims(wiring.sources(node)[0])
    channels = x[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        stored = wiring.given(node, name)
        if stored is not None:
            wiring.variables.same(channels, stored[0])
    if wiring.given(node, "running_mean") is None:
        for dim in x[2:]:
            wiring.variables.changes_statistics(dim)
    return _with_statistics(node, wiring, x)


def layer_norm(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Normalize over the last dimensions together; what stays sees other statistics after a cut."""
    x = wiring.dims(wiring.sources(node)[0])
    count = len(argument(node, "normalized_shape"))
    names = argument_names(node)
    for name in ("weight", "bias"):
        stored = wiring.given(node, name) if name in names else None
        for one, other in zip(x[-count:], stored or (), strict=False):
            wiring.variables.same(one, other)
    for dim in x[-count:]:
        wiring.variables.changes_statistics(dim)
    return _with_statistics(node, wiring, x)


def group_norm(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Normalize groups of channels: a whole group leaves without a trace, a channel of each changes statistics."""
    x, variables = wiring.dims(wiring.sources(node)[0]), wiring.variables
    names = argument_names(node)
    groups = argument(node, "num_groups" if "num_groups" in names else "group")
    for name in ("weight", "bias"):
        stored = wiring.given(node, name)
        if stored is not None:
            variables.same(x[1], stored[0])
    number, within = variables.fresh(groups), variables.fresh(len(x[1]) // groups)
    variables.grid(x[1], (number, within))
    variables.changes_statistics(within)
    wiring.groups[node.name] = number
    return _with_statistics(node, wiring, x)


def weight_norm(node: fx.Node, wiring: Wiring) -> list[Dims]:
    """Couple a direction's dimension with its length's; what is zero counts nothing in the norm over the others."""
    direction, length = wiring.given(node, "v"), wiring.given(node, "g")
    dim = argument(node, "dim")
    if dim >= 0:
        wiring.variables.same(direction[dim], length[dim])
    return [direction]


def _with_statistics(node: fx.Node, wiring: Wiring, x: Dims) -> list[Dims]:
    """Return the normalized value, and frozen the means and deviations that native forms give as well."""
    return [x, *wiring.solid(node, 0)[1:]]


RULES = {
    **dict.fromkeys(
        ("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"), channel_norm
    ),
    **dict.fromkeys(("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), layer_norm),
    "group_norm": group_norm,
    "_weight_norm": weight_norm,
}

"""WeightsOnly: few-bit weights of linear layers, decoded as they are multiplied with activations in float."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node

from leanly.errors import SettingError
from leanly.graph import Graph, check_nodes
from leanly.graph.computed import store_weights
from leanly.graph.nodes import argument, reads_tensor
from leanly.graph.tensors import find
from leanly.quantize.affine import Affine, from_range
from leanly.quantize.binary import multiplies_signs
from leanly.quantize.forms import Form, check_runs
from leanly.quantize.quantizers import add_quantizer, check_quantizable
from leanly.scalars import check_flag, names_of
from leanly.target import Target
from leanly.task import Task

aten = torch.ops.aten
BITS, GROUPS = (4, 8), (16, 32, 64, 128, 256)
"""What the runtimes decode on the fly."""
RANGES = ("mse", "minmax")
SHARES = tuple(1.0 - 0.02 * step for step in range(30))
HALF_LEAST = 2.0**-14
"""The smallest step that float16 holds in full."""


@dataclass(frozen=True)
class WeightsOnly:
    """Quantize the weights of linear layers, and embeddings, in groups of neighbouring columns.

    Smaller files and less memory to read; the products stay float, so that nothing has to be calibrated. Weights are
    rounded to the nearest; put `quantize.GPTQ` behind it to round them by what they are multiplied with. Scales are
    stored in two bytes.

    Args:
        bits: 4 or 8.
        group: weights that share a scale: 16, 32, 64, 128 or 256. A layer whose width is no multiple stays float.
        symmetric: zero sits in the middle; else each group has a zero point of its own.
        range: "mse" for the range with the least squared error, "minmax" for all there is.
        embeddings: quantize the tables of embeddings as well.
        embedding_bits: of those: 8, a scale a row, or 4, in groups; 8 where a width is no multiple of the group.
        float_nodes: names of nodes that stay float.

    Raises:
        SettingError: a setting out of its range.
    """

    bits: int = 4
    group: int = 32
    symmetric: bool = False
    range: str = "mse"
    embeddings: bool = True
    embedding_bits: int = 8
    float_nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("bits", self.bits, BITS),
            ("embedding_bits", self.embedding_bits, BITS),
            ("group", self.group, GROUPS),
            ("range", self.range, RANGES),
        ):
            if value not in known or type(value) is not type(known[0]):
                raise SettingError(
                    f"{name} is {value!r}", where="WeightsOnly", remedy=f"use {', '.join(map(str, known))}"
                )

        check_flag(self.symmetric, name="symmetric", where="WeightsOnly")
        check_flag(self.embeddings, name="embeddings", where="WeightsOnly")
        object.__setattr__(self, "float_nodes", names_of(self.float_nodes, name="float_nodes", where="WeightsOnly"))

    def __call__(self, graph: Graph, task: Task | None = None, target: Target | None = None) -> Graph:
        """Return a graph with quantizers on weights alone; neither data nor target are needed.

        Raises:
            SettingError: no layer can be quantized, weights of another precision than float32, values in signs, a
                float node that does not exist, or a target whose runtimes decode no weights.
        """
        check_quantizable(graph, "WeightsOnly")
        check_runs(Form.PACKED, target, "WeightsOnly")
        if multiplies_signs(graph):
            raise SettingError(
                "the graph multiplies signs: its layers are given integers, not floats",
                where="WeightsOnly",
                remedy="use quantize.Static for the layers that are left, or quantize.Binary(activations=32)",
            )
        check_nodes(graph, "float_nodes", self.float_nodes, "WeightsOnly")
        graph = store_weights(graph)
        left: list[str] = []
        before = len(graph.module.graph.nodes)
        widths: list[int] = []
        done: set[Node] = set()
        for node in list(graph.module.graph.nodes):
            weight = argument(node, "weight") if node.target in (aten.linear.default, aten.embedding.default) else None
            if weight is None or not reads_tensor(weight) or weight in done or node.name in self.float_nodes:
                continue
            done.add(weight)
            values = find(graph.module, str(weight.target)).detach()
            if not _is_only_read_by(graph, weight, node.target):
                left.append(f"{weight.target} (read by other operators too)")
            elif node.target is aten.embedding.default:
                if self.embeddings:
                    few = self.embedding_bits < 8 and values.shape[1] % self.group == 0
                    add_quantizer(graph, weight, self._grouped(values, self.embedding_bits) if few else _rows(values))
            elif values.shape[1] % self.group:
                widths.append(values.shape[1])
                left.append(f"{weight.target} ({values.shape[1]} wide)")
            else:
                add_quantizer(graph, weight, self._grouped(values, self.bits))
        if len(graph.module.graph.nodes) == before:
            named = ", ".join(left[:5]) or "no linear layer is left"
            group = max(GROUPS, key=lambda one: (sum(width % one == 0 for width in widths), one))
            fits = any(width % group == 0 for width in widths)
            raise SettingError(
                f"no layer can be quantized in groups of {self.group}: {named}",
                where="WeightsOnly",
                remedy=f"use group={group}" if fits else "use quantize.Static",
            )
        if left:
            graph.notes = (*graph.notes, f"quantize.WeightsOnly left in float: {', '.join(left)}")
        graph.module.graph.lint()
        graph.module.recompile()
        return graph

    def _grouped(self, weight: Tensor, bits: int) -> Affine:
        groups = weight.reshape(weight.shape[0], -1, self.group)
        low, high = groups.amin(2), groups.amax(2)

        def affine(share: float) -> Affine:
            found = from_range(low * share, high * share, bits=bits, symmetric=self.symmetric, signed=False, axis=0)
            return _in_half(found)

        best = affine(1.0)
        least = _errors(best, weight, self.group)
        for share in SHARES[1:] if self.range == "mse" else ():
            tried = affine(share)
            error = _errors(tried, weight, self.group)
            better = error < least
            least = torch.where(better, error, least)
            scale, shift = (
                torch.where(better, *pair) for pair in ((tried.scale, best.scale), (tried.shift, best.shift))
            )
            best = replace(best, scale=scale, shift=shift)
        return best


def _rows(table: Tensor) -> Affine:
    bound = table.abs().amax(1)
    return _in_half(from_range(-bound, bound, bits=8, symmetric=True, signed=True, narrow=True, axis=0))


def _in_half(affine: Affine) -> Affine:
    """Return integers whose steps float16 holds exactly, but for the smallest steps."""
    step = 1 / affine.scale
    half = step.half().to(step.dtype)
    return replace(affine, scale=torch.where((half >= HALF_LEAST) & half.isfinite(), 1 / half, affine.scale))


def _errors(affine: Affine, weight: Tensor, group: int) -> Tensor:
    """Return the squared error of each group."""
    lost = affine.dequantize(affine.quantize(weight)) - weight
    return lost.square().reshape(weight.shape[0], -1, group).sum(2)


def _is_only_read_by(graph: Graph, weight: Node, operator: object) -> bool:
    readers = [
        reader
        for node in graph.module.graph.nodes
        if node.op == "get_attr" and node.target == weight.target
        for reader in node.users
    ]
    return all(reader.target is operator for reader in readers)

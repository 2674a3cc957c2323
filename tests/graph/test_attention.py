"""Attention written out gives what torch's own gives, also where a query may look at nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import leanly
from leanly.graph.attention import expand_attention
from leanly.runtimes import open_artifact
from tests.once import once

ROWS, TOKENS = 3, 5


class Attends(nn.Module):
    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = x.reshape(x.shape[0], TOKENS, 2, 4).transpose(1, 2)
        return functional.scaled_dot_product_attention(heads, heads.flip(2), heads, mask, scale=self.scale)


def masked(boolean: bool, lowest: float) -> tuple[Tensor, Tensor]:
    """Rows whose second query, and a row all of whose queries, may look at nothing."""
    torch.manual_seed(0)
    allowed = torch.rand(ROWS, 1, TOKENS, TOKENS) > 0.3
    allowed[:, :, 1], allowed[2] = False, False
    allowed[:2, :, 0] = True
    return torch.randn(ROWS, TOKENS, 8), allowed if boolean else torch.where(allowed, 0.0, lowest)


class EachWay(nn.Module):
    """Attention with each mask, with each scale."""

    def forward(self, x: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
        return tuple(Attends(scale)(x, mask) for scale in (None, 0.7) for mask in masks)


@once
def all_masks() -> tuple[leanly.Graph, tuple[Tensor, ...]]:
    x, boolean = masked(True, 0.0)
    masks = boolean, *(masked(False, lowest)[1] for lowest in (float("-inf"), -1e30))
    return leanly.capture(EachWay().eval(), example=(x, *masks)), (x, *masks)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_give_what_torch_gives(runtime, tmp_path):
    graph, inputs = all_masks()
    predictor = open_artifact(leanly.lower(graph, runtime=runtime, to=tmp_path / "lowered"))
    found, wanted = predictor(*inputs), graph(*inputs)
    assert len(found) == 6
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, wanted, strict=True))


def test_without_a_query_that_sees_nothing_the_expansion_is_exact():
    x, mask = masked(True, 0.0)
    mask = mask | (torch.arange(TOKENS) == 0)
    graph = leanly.capture(Attends(None).eval(), example=(x, mask))
    expanded = expand_attention(graph)
    assert not any("scaled_dot" in str(node.target) for node in expanded.module.graph.nodes)
    assert torch.allclose(expanded(x, mask), graph(x, mask), atol=1e-5)


def test_a_lowered_attention_is_the_form_that_runtimes_fuse(tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = leanly.capture(Attends(None).eval(), example=masked(True, 0.0))
    leanly.lower(graph, to=tmp_path / "lowered")
    operators = [node.op_type for node in onnx.load(tmp_path / "lowered" / "model.onnx").graph.node]
    assert "IsNaN" not in operators
    assert [operators.count(name) for name in ("MatMul", "Mul", "Softmax")] == [2, 1, 1]

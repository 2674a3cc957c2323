"""A rule that does not fit the use of an operator keeps it whole; it neither fails nor guesses."""

import pytest
import torch

from leanly.graph import capture
from leanly.graph.coupling import couple, rules
from tests.graph.coupling.test_operators import Between
from tests.prune.surgery import scrambled


def _fails(node, wiring):
    raise IndexError("no such dimension")


def _guesses(node, wiring):
    return [[wiring.variables.fresh(3) for _ in wiring.shape(node)]]


@pytest.mark.parametrize("rule", [_fails, _guesses, lambda node, wiring: None])
def test_a_rule_that_does_not_fit(monkeypatch, rule):
    graph = capture(scrambled(Between(torch.nn.functional.hardswish)), example=torch.randn(2, 6))
    assert not couple(graph).frozen
    monkeypatch.setitem(rules.RULES, "hardswish", rule)
    (frozen,) = couple(graph).frozen
    assert frozen.operator == "aten.hardswish.default" and "one.weight" in frozen.tensors

"""LearnSteps: gradients as derived, training that gains by them, and integers that lower as any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import leanly
from leanly.distill import Distill
from leanly.errors import SettingError
from leanly.graph.quantizer import of_weight
from leanly.quantize import LearnSteps, Static
from leanly.quantize.quantizers import is_quantizer, read_affine, write_scale
from leanly.training import Settings
from tests.quantize.networks import error, inputs_of, perceptron, residual


def smooth(x: Tensor, scale: Tensor, shift: Tensor, low: int, high: int) -> Tensor:
    """The same arithmetic with the rounding passed straight through, for autograd to derive."""
    steps = x * scale + shift
    kept = steps.clamp(low, high)
    return (kept + (torch.round(x * scale) + shift).clamp(low, high).detach() - kept.detach() - shift) / scale


@pytest.mark.parametrize("scale", [torch.tensor(3.0), torch.tensor([2.0, 3.0, 0.5])], ids=["tensor", "channel"])
def test_gradients_are_those_of_straight_through_rounding(scale: Tensor) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 40, requires_grad=True)
    scale, shift = scale.clone().requires_grad_(), torch.full_like(scale, 5.0).requires_grad_()
    axis = 0 if scale.ndim else -1
    weight = torch.randn(3, 40)
    column = (lambda t: t[:, None]) if scale.ndim else (lambda t: t)
    wanted = torch.autograd.grad((smooth(x, column(scale), column(shift), 0, 15) * weight).sum(), (x, scale, shift))
    found = torch.autograd.grad(
        (torch.ops.leanly.fake_quantize(x, scale, shift, axis, 0, 15) * weight).sum(), (x, scale, shift)
    )
    # half a step beyond an end still rounds to the end: there the operator's gradient goes on
    steps = x * column(scale) + column(shift)
    plain = ((steps - 0).abs() > 0.5) & ((steps - 15).abs() > 0.5)
    torch.testing.assert_close(found[0][plain], wanted[0][plain])
    if bool(plain.all()):
        torch.testing.assert_close(found[1:], wanted[1:])


def test_gradients_of_groups_add_up_to_those_of_their_channel() -> None:
    x, grad = torch.randn(4, 6), torch.randn(4, 6)
    one = torch.full((4, 1), 2.0, requires_grad=True)
    three = torch.full((4, 3), 2.0, requires_grad=True)
    for scale in (one, three):
        out = torch.ops.leanly.fake_quantize(x, scale, torch.zeros_like(scale).detach(), 0, -7, 7)
        (out * grad).sum().backward()
    torch.testing.assert_close(three.grad.sum(1, keepdim=True), one.grad)


@pytest.mark.parametrize("shifts", [False, True])
def test_training_mends_steps_that_are_far_too_wide(shifts: bool) -> None:
    graph, task = residual()
    wide = Static(weights=4, activations=4)(graph, task)
    for node in wide.module.graph.nodes:
        if is_quantizer(node) and not of_weight(node):
            write_scale(wide.module, node, read_affine(wide.module, node).scale / 4)
    steps = LearnSteps(shifts=shifts)(wide, task)
    for name, parameter in steps.named_parameters():
        parameter.requires_grad_(name.startswith("quantizers."))  # what is gained is gained by them alone
    settings = Settings(batch_size=16, precision="float32", learning_rate=2e-2)
    learned = Distill(teacher=graph, epochs=30, alpha=1.0, settings=settings)(steps, task)
    assert error(graph, learned, task) < 0.7 * error(graph, wide, task)


def test_what_was_learned_lowers_to_the_same_integers(tmp_path: Path) -> None:
    graph, task = residual()
    few = LearnSteps(shifts=True)(Static(weights=4, activations=4, kernels="onnxruntime")(graph, task), task)
    teach = Distill(teacher=graph, epochs=2, settings=Settings(batch_size=32, precision="float32"))
    learned = teach(few, task)
    moved = [
        not torch.equal(dict(learned.named_parameters())[name], value)
        for name, value in few.named_parameters()
        if name.startswith("quantizers.")
    ]
    assert any(moved)
    artifact = leanly.lower(learned, runtime="onnxruntime", to=tmp_path / "a")
    assert artifact.precision == "int8", "lower proves parity with the graph"
    assert leanly.Graph.open(_saved(learned, tmp_path)).fingerprint() == learned.fingerprint()


def _saved(graph: leanly.Graph, folder: Path) -> Path:
    graph.save(folder / "g")
    return folder / "g"


def test_outputs_stay_and_only_scales_become_parameters() -> None:
    graph, task = perceptron()
    few = Static(weights=4)(graph, task)
    more = LearnSteps()(few)
    x = inputs_of(task)
    torch.testing.assert_close(more(x), few(x))
    count = sum(is_quantizer(node) for node in few.module.graph.nodes)
    assert len(list(more.parameters())) == len(list(few.parameters())) + count


def test_shifts_are_learned_or_not() -> None:
    with pytest.raises(SettingError, match="shifts is 'yes'"):
        LearnSteps(shifts="yes")  # type: ignore[arg-type]


def test_sgd_and_float_graphs_are_refused() -> None:
    graph, task = perceptron()
    with pytest.raises(SettingError, match="no quantized weights"):
        LearnSteps()(graph)
    learned = LearnSteps()(Static()(graph, task))
    with pytest.raises(SettingError, match="adamw"):
        Distill(teacher=graph, epochs=1, settings=Settings(optimizer="sgd"))(learned, task)

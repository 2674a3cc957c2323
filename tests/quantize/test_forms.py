"""A target that can't run what a pass makes is refused before the pass does anything."""

from __future__ import annotations

import pytest

import leanly
from leanly.artifact import RUNTIMES
from leanly.errors import SettingError
from leanly.quantize import GPTQ, Binary, Mixed, Static, WeightsOnly
from leanly.quantize.forms import Form, check_runs, runtimes_of
from leanly.recipe import Pass
from tests.quantize.networks import perceptron, residual

PASSES: dict[str, Pass] = {
    "Static": Static(),
    "Mixed": Mixed(),
    "WeightsOnly": WeightsOnly(group=16),
    "Binary": Binary(),
}


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_refuses_a_target_without_its_kernels_before_it_looks_for_rows(name: str) -> None:
    graph, _ = residual()
    with pytest.raises(
        SettingError, match=f"the target allows torch, which has no kernels.*onnxruntime.*leave {name} out"
    ):
        PASSES[name](graph, None, leanly.Target("cpu", runtimes="torch"))


@pytest.mark.parametrize(("step", "form"), [(Static(), Form.INTEGERS), (WeightsOnly(group=16), Form.PACKED)])
def test_gptq_asks_for_what_its_graph_needs(step: Pass, form: Form) -> None:
    graph, task = perceptron()
    with pytest.raises(SettingError, match=f"no kernels for {form.value}"):
        GPTQ()(step(graph, task), None, leanly.Target("cpu", runtimes="torch"))


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_runtime_that_runs_it_is_enough(form: Form, runtime: str) -> None:
    check_runs(form, None, "here")
    check_runs(form, leanly.Target("cpu"), "here")
    check_runs(form, leanly.Target("cpu", runtimes=("torch", "openvino")), "here")
    if runtime in runtimes_of(form):
        check_runs(form, leanly.Target("cpu", runtimes=runtime), "here")
    else:
        with pytest.raises(SettingError, match=form.value):
            check_runs(form, leanly.Target("cpu", runtimes=runtime), "here")

"""Forms that few bits take in a file, and which runtime runs them: asked before any work is done."""

from __future__ import annotations

from enum import Enum

from leanly.errors import SettingError
from leanly.graph.checking import check_target
from leanly.target import Target, installed_runtimes


class Form(Enum):
    """What a runtime has to have kernels for."""

    INTEGERS = "products of integers"
    PACKED = "packed weights"
    SIGNS = "one-bit layers"
    """Signs lie in bytes, in a bundle in a bit each; the runtime's kernels for integers or floats multiply them."""
    SIGN_PRODUCTS = "products of packed signs"


_RUN_BY = {
    Form.INTEGERS: ("onnxruntime", "openvino"),
    Form.PACKED: ("onnxruntime", "openvino"),
    Form.SIGNS: ("onnxruntime", "openvino"),
    Form.SIGN_PRODUCTS: ("openvino",),
}


def runtimes_of(form: Form) -> tuple[str, ...]:
    """Return the runtimes that run a form; in the others it would be float weights that were rounded."""
    return _RUN_BY[form]


def check_runs(form: Form, target: Target | None, where: str) -> None:
    """Raise a SettingError where it is no target, or none of its runtimes could run what a pass is about to make.

    Args:
        form: of the outcome.
        target: None where nobody knows yet where it will run.
        where: the pass.
    """
    check_target(target, where)
    if target is None:
        return
    allowed = target.runtimes or installed_runtimes()
    if not set(allowed) & set(runtimes_of(form)):
        raise SettingError(
            f"the target allows {', '.join(allowed) or 'no runtime'}, which has no kernels for {form.value}",
            where=where,
            remedy=f"allow {' or '.join(runtimes_of(form))} in Target(runtimes=), or leave {where} out",
        )

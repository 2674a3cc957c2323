"""lower: a graph written for one runtime, opened there and compared before it is called an artifact."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from leanly.artifact import DESCRIPTION, EAGER, PRECISIONS, RUNTIMES, Artifact, Plan
from leanly.compact import Span, compact, restore
from leanly.errors import LoweringError, MissingExtra, SettingError
from leanly.files import replacing_folder
from leanly.graph import Graph
from leanly.graph.saving import WEIGHTS, spans
from leanly.lowering.integers import computes_in_integers, forms_of, store_integers
from leanly.lowering.proof import prove
from leanly.lowering.signs import LEAST_CHANNELS, kernel_layers, least_columns
from leanly.lowering.sizes import bytes_in_safetensors
from leanly.quantize.binary import is_binarized
from leanly.quantize.forms import Form, runtimes_of
from leanly.quantize.saturation import widened
from leanly.target import Target, installed_runtimes


def lower(
    graph: Graph,
    *,
    runtime: str = "onnxruntime",
    to: str | Path,
    precision: str | None = None,
    rest: str = "float32",
    plans: dict[int, Plan] | None = None,
    eager: bool = False,
    exported: Artifact | None = None,
) -> Artifact:
    """Write a graph for a runtime, open it there, and prove that it does what the graph does.

    Args:
        graph: a captured graph, quantized or not, in eval mode or not: it is lowered as it evaluates; one on a CUDA
            device is copied to the CPU, where artifacts run.
        runtime: "onnxruntime", "openvino" or "torch".
        to: the folder of the artifact; it is replaced whole.
        precision: "float32", "bfloat16" (openvino, torch), "int8", or "binary" (openvino): leanly's own kernel for
            layers of `quantize.Binary`, compiled on this machine. By default int8 for a quantized graph.
        rest: what an int8 or binary artifact computes in elsewhere: "float32", or "bfloat16" (openvino).
        plans: how each batch size is run.
        eager: with "torch": as a plain module, not compiled.
        exported: an ONNX artifact of the very same graph, whose file is copied instead of exported again.

    Raises:
        SettingError: a runtime or precision that does not exist or doesn't fit the graph.
        MissingExtra: the runtime is not installed.
        LoweringError: the runtime has no kernels for the graph's bits, which is said first; the exporter failed, or the
            artifact differs from the graph.
        RunError: the folder holds something else than an artifact.
    """
    for spec in (*graph.inputs, *graph.outputs):
        if spec.dtype == "bfloat16":
            raise SettingError(
                f"{spec.name} is bfloat16, which what calls an artifact has no arrays of",
                where="lower",
                remedy='capture model.float() with an example in float32, and lower it with precision="bfloat16"',
            )
    integer, forms = computes_in_integers(graph), forms_of(graph)
    packed = not integer and Form.PACKED in forms
    precision = precision or ("int8" if integer else "float32")
    _check(runtime, precision, rest, integer, packed)
    _check_kernels(runtime, (*forms, Form.SIGN_PRODUCTS) if precision == "binary" else forms)
    if precision == "binary":
        _check_signs(graph)
    if graph.device.type != "cpu" or graph.training:
        graph = graph.clone().to("cpu").eval()
    if integer and not Target("cpu").vnni:
        graph = widened(graph)
    to = Path(to)
    with replacing_folder(to, DESCRIPTION, "an artifact") as folder:
        if runtime == "torch":
            graph.save(folder / "graph")
            files: tuple[str, ...] = ("graph",)
            stored = {name: (t.element_size() * 8, t.numel()) for name, t in graph.state_dict().items()}
            widths: dict[str, int] = {}
            weights = folder / "graph" / WEIGHTS
            content = weights.read_bytes()
            payload, decoding = _coded(content, bytes_in_safetensors(weights), spans(content))
        else:
            from leanly.lowering import packing
            from leanly.lowering.onnx import export

            if exported is not None:
                files, stored, widths = exported.files, exported.storage_bits, exported.code_bits
                payload, decoding = exported.payload_bytes, exported.decode_seconds
                for name in files:
                    shutil.copyfile(exported.folder / name, folder / name)
            else:
                integers, stored, widths = store_integers(graph, packed_signs=precision == "binary")
                products = packed and precision == "int8"
                files = export(integers, folder / "model.onnx", integer_products=products)
                content = (folder / files[0]).read_bytes()
                payload, decoding = _coded(content, packing.tensor_bytes(content), packing.spans(content))
        artifact = Artifact(
            folder=folder,
            runtime=runtime,
            precision=precision,
            rest=rest,
            files=files,
            inputs=graph.inputs,
            outputs=graph.outputs,
            arguments=graph.arguments,
            returns=graph.returns,
            plans=dict(plans or {}),
            storage_bits=stored,
            code_bits=widths,
            payload_bytes=payload,
            decode_seconds=decoding,
            notes=(*((EAGER,) if eager else ()), *graph.notes),
        )
        try:
            artifact = prove(artifact, graph)
        except LoweringError as error:
            # the folder it names is gone when this is read
            raise LoweringError(error.what, where=f"lowered for {runtime}", remedy=error.remedy) from error
        artifact.save()
    return replace(artifact, folder=to)


def _coded(content: bytes, whole: int, located: list[Span]) -> tuple[int, float]:
    """Return the bytes of a file's tensors as a bundle holds them, and the seconds that decoding them takes.

    Args:
        content: of the file.
        whole: bytes of its tensors as they lie there.
        located: where those lie that may be coded.
    """
    coded = compact(content, located)
    if len(coded) >= len(content):
        return whole, 0.0
    begun = time.perf_counter()
    restore(coded)
    return whole - len(content) + len(coded), time.perf_counter() - begun


def _check(runtime: str, precision: str, rest: str, integer: bool, packed: bool) -> None:
    if runtime not in RUNTIMES:
        raise SettingError(f"unknown runtime {runtime!r}", where="lower", remedy=f"use one of {', '.join(RUNTIMES)}")
    for name, given, known in (("precision", precision, PRECISIONS), ("rest", rest, PRECISIONS[:2])):
        if given not in known:
            raise SettingError(f"unknown {name} {given!r}", where="lower", remedy=f"use one of {', '.join(known)}")
    if integer != (precision in ("int8", "binary")) and not packed:
        raise SettingError(
            f"precision {precision} does not fit a graph {'with' if integer else 'without'} quantizers",
            where="lower",
            remedy="apply quantize.Static for int8, leave it out for float",
        )
    if packed and (runtime, precision) == ("openvino", "int8"):
        raise SettingError(
            "OpenVINO multiplies packed weights in float, whatever they are stored in",
            where="lower",
            remedy='leave precision out, or use runtime="onnxruntime"',
        )
    if rest != "float32" and precision in PRECISIONS[:2]:
        raise SettingError(
            f"rest={rest!r} is of what an int8 or binary artifact computes besides, and this one is {precision}",
            where="lower",
            remedy=f'leave rest out, or use precision="{rest}"',
        )
    if runtime == "onnxruntime" and "bfloat16" in (precision, rest):
        raise SettingError(
            "ONNX Runtime has no bfloat16 kernels on the CPU", where="lower", remedy='use runtime="openvino"'
        )


def _check_kernels(runtime: str, forms: Iterable[Form]) -> None:
    for form in forms:
        if runtime not in runtimes_of(form):
            named = " or ".join(f'"{name}"' for name in runtimes_of(form))
            raise LoweringError(
                f"{runtime} has no kernels for {form.value}, which this graph needs",
                where="lower",
                remedy=f"use runtime={named}",
            )
    if runtime not in installed_runtimes():
        raise MissingExtra(
            f"runtime {runtime!r} is not installed", where="lower", remedy=f'pip install "leanly[{runtime}]"'
        )


def _check_signs(graph: Graph) -> None:
    if not any(is_binarized(node) for node in graph.module.graph.nodes):
        raise SettingError(
            "no layer of the graph multiplies signs with signs",
            where="lower",
            remedy="apply quantize.Binary(activations=1), or leave precision out",
        )
    if not kernel_layers(graph):
        raise SettingError(
            f"no layer that multiplies signs is a convolution of {LEAST_CHANNELS} input channels or more, or a linear "
            f"layer of {least_columns()}: the kernel of signs would be no faster than bytes",
            where="lower",
            remedy="leave precision out: the signs run as bytes, and take a bit each in a bundle",
        )
    from leanly.runtimes.compiling import openvino_extension

    openvino_extension()  # the graph is exported in vain where it can't be compiled

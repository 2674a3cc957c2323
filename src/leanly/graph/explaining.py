"""Naming the user's own line: in an exception's traceback, and in what the exporter recorded of a node."""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import fx

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent.parent)
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


def line_of(error: BaseException) -> str:
    """Name the last line of the user's own file that led to an error: "path:12: code"; empty where there is none."""
    cause: BaseException | None = error
    while cause is not None:
        frames = [
            (frame.filename, frame.lineno or 0, frame.line or "") for frame in traceback.extract_tb(cause.__traceback__)
        ]
        ours = [position for position, (name, _, _) in enumerate(frames) if name.startswith(_OURS)]
        found = _last(frames[ours[0] :] if ours else frames)  # what called us is not what we called
        if found:
            return found
        cause = cause.__cause__ or cause.__context__
    return _last(_mentioned(str(error)))


def line_of_trace(trace: str) -> str:
    """Name the innermost line of a recorded stack that is not PyTorch's: "path:12: code"."""
    return _last(_mentioned(trace))


def shortened(line: str) -> str:
    """Leave away the folders that say only where a machine keeps its files; a graph is shipped."""
    for root in (f"{Path.cwd()}/", f"{Path.home()}/"):
        line = line.removeprefix(root)
    return line.rpartition("site-packages/")[2]


def line_of_node(node: fx.Node) -> str:
    """Name the user's line of a freshly exported node, or its submodule's path."""
    found = node.meta.get("source") or line_of_trace(node.meta.get("stack_trace") or "")
    return found or path_of(node) or node.name


def path_of(node: fx.Node) -> str:
    """Return the submodule that made a node ("layer1.0.conv1"); empty for the model's own forward."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    last = str(paths[-1]) if paths else ""
    last = re.sub(r"@\d+$", "", last.removeprefix("model").removeprefix("."))
    return "" if last.startswith("_empty_nn_module_stack") else last


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _mentioned(text: str) -> list[tuple[str, int, str]]:
    return [
        (name, int(number), linecache.getline(name, int(number)).strip()) for name, number, _ in _FRAME.findall(text)
    ]


def _last(frames: Iterable[tuple[str, int, str]]) -> str:
    """Prefer a file that is installed nowhere; then any that is not PyTorch's."""
    known = [frame for frame in frames if not _foreign(frame[0])]
    own = [frame for frame in known if "site-packages" not in frame[0]]
    for name, number, code in reversed(own or known):
        return f"{name}:{number}: {code.strip()}" if code.strip() else f"{name}:{number}"
    return ""


def _foreign(name: str) -> bool:
    """Say whether a file is PyTorch's, ours, the standard library's or made up on the fly."""
    if name.startswith((_TORCH, _OURS, "torch/", "<")) or "site-packages/torch/" in name:
        return True
    return name.startswith(str(Path(re.__file__).parent.parent)) and "site-packages" not in name

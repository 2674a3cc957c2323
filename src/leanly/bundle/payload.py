"""The payload: a runtime's file in its compact form, and that very file back from it.

Runtimes read weights of 4 bits as bytes of 8, and zeros as any other number: a bundle carries neither.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from leanly.artifact import Artifact
from leanly.bundle.manifest import COPY_AGAIN
from leanly.compact import Span, compact, restore
from leanly.errors import BundleError

SUFFIX = ".compact"


def copy_coded(artifact: Artifact, folder: Path) -> None:
    """Copy an artifact's files into a folder, the one with the weights in its compact form where that is smaller."""
    content = artifact.weights.read_bytes()
    coded = compact(content, _spans(artifact.runtime, content))
    for path in artifact.paths:
        copy = folder / path.relative_to(artifact.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path == artifact.weights and len(coded) < len(content):
            _compact_of(copy).write_bytes(coded)
        else:
            shutil.copyfile(path, copy)


def opened(artifact: Artifact) -> Artifact:
    """Return the artifact as its runtime reads it: restored into a folder that lives as long as this process.

    Raises:
        BundleError: the compact file is damaged.
    """
    path = _compact_of(artifact.weights)
    if not path.exists():
        return artifact
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    weights = replace(artifact, folder=folder).weights
    weights.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    try:
        weights.write_bytes(restore(path.read_bytes()))
    except ValueError as error:
        raise BundleError(f"a compact file is damaged ({error})", where=str(path), remedy=COPY_AGAIN) from error
    seconds = time.perf_counter() - begun
    for other in artifact.paths:
        if other not in (path, artifact.weights):
            (folder / other.relative_to(artifact.folder)).symlink_to(other.resolve())
    return replace(artifact, folder=folder, decode_seconds=seconds)


def _compact_of(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _spans(runtime: str, content: bytes) -> list[Span]:
    if runtime == "torch":
        from leanly.graph.saving import spans
    else:
        from leanly.lowering.packing import spans
    return spans(content)


_made: list[tempfile.TemporaryDirectory[str]] = []


def _scratch() -> str:
    if not _made:
        _made.append(tempfile.TemporaryDirectory(prefix="leanly-"))
        atexit.register(_made[0].cleanup)
    return _made[0].name

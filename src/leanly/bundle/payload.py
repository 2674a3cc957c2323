"""The payload: a runtime's file in its compact form, and that very file back from it.

Runtimes read weights of 4 bits as bytes of 8, and zeros as any other number: a bundle carries neither.
"""

from __future__ import annotations

import atexit
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from leanly.artifact import Artifact
from leanly.bundle.manifest import COPY_AGAIN
from leanly.compact import compact, restore
from leanly.errors import BundleError

SUFFIX = ".compact"


def write_compact(artifact: Artifact, folder: Path) -> bool:
    """Write the compact form of an artifact's model into a folder, where some of its tensors are coded.

    Returns:
        Whether it was written.
    """
    if artifact.runtime == "torch":
        return False
    from leanly.lowering.packing import spans

    content = artifact.model.read_bytes()
    coded = compact(content, spans(content))
    if len(coded) >= len(content):
        return False
    path = folder / (artifact.files[0] + SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(coded)
    return True


def opened(artifact: Artifact) -> Artifact:
    """Return the artifact as its runtime reads it: restored into a folder that lives as long as this process.

    Raises:
        BundleError: the compact file is damaged.
    """
    path = artifact.folder / (artifact.files[0] + SUFFIX)
    if not path.exists():
        return artifact
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    model = folder / artifact.files[0]
    model.parent.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    try:
        model.write_bytes(restore(path.read_bytes()))
    except ValueError as error:
        raise BundleError(f"a compact file is damaged ({error})", where=str(path), remedy=COPY_AGAIN) from error
    seconds = time.perf_counter() - begun
    for name in artifact.files[1:]:
        (folder / name).symlink_to((artifact.folder / name).resolve())
    return replace(artifact, folder=folder, decode_seconds=seconds)


_made: list[tempfile.TemporaryDirectory[str]] = []


def _scratch() -> str:
    if not _made:
        _made.append(tempfile.TemporaryDirectory(prefix="leanly-"))
        atexit.register(_made[0].cleanup)
    return _made[0].name

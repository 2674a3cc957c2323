"""The payload: a runtime's file with its low-bit codes packed, and that very file back from it.

Runtimes read 4-bit weights of a convolution as bytes of 8: a bundle does not carry the bits that are always the same.
"""

from __future__ import annotations

import atexit
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from leanly.artifact import Artifact, Codes
from leanly.bundle.manifest import COPY_AGAIN
from leanly.errors import BundleError
from leanly.packing import pack_flat, packed_bytes, unpack_flat

SUFFIX = ".packed"
HASH = 32


def packed(content: bytes, codes: tuple[Codes, ...]) -> bytes:
    """Return a file as its SHA-256, what is no code, and the codes packed."""
    rest, pieces = [], []
    for start, stop, entry in _spans(codes, len(content)):
        rest.append(content[start:stop])
        if entry is not None:
            values = np.frombuffer(content, np.uint8, entry.count, entry.offset)
            # a code is kept as its distance from the smallest: signed or not, the byte comes back by the same sum
            pieces.append(pack_flat((values - np.uint8(entry.low % 256)) // np.uint8(entry.step), entry.bits))
    return b"".join([hashlib.sha256(content).digest(), *rest, *pieces])


def unpacked(content: bytes, codes: tuple[Codes, ...]) -> bytes:
    """Return the file that `packed` was given.

    Raises:
        ValueError: it is not what `packed` gave for these codes.
    """
    sizes = [packed_bytes(entry.bits, entry.count) for entry in codes]
    left = len(content) - HASH - sum(sizes)
    if left < 0:
        raise ValueError("it is shorter than its codes")
    rest, position = content[HASH : HASH + left], HASH + left
    parts: list[bytes] = []
    taken = 0
    for start, stop, entry in _spans(codes, left + sum(entry.count for entry in codes)):
        parts.append(rest[taken : taken + stop - start])
        taken += stop - start
        if entry is not None:
            size = packed_bytes(entry.bits, entry.count)
            values = unpack_flat(content[position : position + size], entry.bits, entry.count)
            parts.append((values * np.uint8(entry.step) + np.uint8(entry.low % 256)).tobytes())
            position += size
    whole = b"".join(parts)
    if hashlib.sha256(whole).digest() != content[:HASH]:
        raise ValueError("the file unpacked does not fit its hash")
    return whole


def _spans(codes: tuple[Codes, ...], size: int) -> Iterator[tuple[int, int, Codes | None]]:
    """Yield (start, stop, the codes that follow) of the stretches between codes, in order."""
    position = 0
    for entry in sorted(codes, key=lambda entry: entry.offset):
        if entry.offset < position or entry.count < 0 or not 1 <= entry.bits <= 8 or not 1 <= entry.step < 256:
            raise ValueError("codes overlap or are of no size")
        yield position, entry.offset, entry
        position = entry.offset + entry.count
    if position > size:
        raise ValueError("codes reach beyond the end")
    yield position, size, None


def write_packed(artifact: Artifact, folder: Path) -> None:
    """Write the packed form of an artifact's model into a folder."""
    path = folder / (artifact.files[0] + SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(artifact.model.read_bytes(), artifact.codes))


def opened(artifact: Artifact) -> Artifact:
    """Return the artifact as its runtime reads it: unpacked into a folder that lives as long as this process.

    Raises:
        BundleError: the packed file is damaged.
    """
    path = artifact.folder / (artifact.files[0] + SUFFIX)
    if not path.exists():
        return artifact
    folder = Path(tempfile.mkdtemp(dir=_scratch()))
    model = folder / artifact.files[0]
    model.parent.mkdir(parents=True, exist_ok=True)
    try:
        model.write_bytes(unpacked(path.read_bytes(), artifact.codes))
    except ValueError as error:
        raise BundleError(f"a packed file is damaged ({error})", where=str(path), remedy=COPY_AGAIN) from error
    for name in artifact.files[1:]:
        (folder / name).symlink_to((artifact.folder / name).resolve())
    return replace(artifact, folder=folder)


_made: list[tempfile.TemporaryDirectory[str]] = []


def _scratch() -> str:
    if not _made:
        _made.append(tempfile.TemporaryDirectory(prefix="leanly-"))
        atexit.register(_made[0].cleanup)
    return _made[0].name

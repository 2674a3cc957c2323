"""Verifying: every file of the bundle is there, as it was, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanly.artifact import DESCRIPTION
from leanly.bundle.manifest import COPY_AGAIN, MANIFEST, SIGNATURE, read_manifest
from leanly.bundle.signing import Key, check, read_public, read_signature
from leanly.errors import BundleError

DOCUMENT = "bundle.json"
# The two files beside the payload are small; a larger one is not ours, and is not read into memory.
LARGEST_TEXT = 64 * 1024 * 1024

Stamp = tuple[int, int, int, int, int]
"""What the system says of a file's identity: device, inode, size, times of the last change of content and of state."""


@dataclass(frozen=True)
class Contents:
    """A bundle that was verified.

    Args:
        path: the folder.
        document: what `bundle.json` says: best, budget, verdict, recipe, machine, versions and the artifacts.
        files: SHA-256 and bytes of each file.
        signed_by: public key of the signer in hex digits, None where nobody signed.
        checked: whether the signature was checked against a key that the caller gave.
        stamps: identity of each file as it was hashed.
    """

    path: Path
    document: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]
    signed_by: str | None
    checked: bool
    stamps: Mapping[str, Stamp]

    @property
    def bytes(self) -> int:
        """Bytes of all files, manifest and signature included."""
        return sum(stamp[2] for stamp in self.stamps.values())

    def check_unchanged(self) -> None:
        """Check that the files are still those that were hashed; cheap, made to be called after each opening.

        Raises:
            BundleError: a file was replaced or written to.
        """
        for name, stamp in self.stamps.items():
            path = self.path / name
            try:
                now = stamp_of(path.stat(follow_symlinks=False))
            except OSError:
                now = None
            # a new hard link or mode moves the last time only: the content decides
            if now != stamp and (
                now is None or now[:4] != stamp[:4] or read_hash(path, self.path)[0] != self._hash(name)
            ):
                raise BundleError(
                    "a file was altered after the bundle was verified", where=str(path), remedy="load the bundle again"
                )

    def _hash(self, name: str) -> str | None:
        return self.files[name][0] if name in self.files else None


def verify(path: str | Path, public_key: Key | None = None) -> Contents:
    """Check a bundle: no file missing, added or altered, hidden ones and the manifest included.

    Args:
        path: the bundle's folder.
        public_key: asks for a signature by this key: a file (PEM or 32 raw bytes), or its bytes. Without it the bundle
            is known to be whole, not who made it.

    Raises:
        BundleError: it is not as it was made, of a newer version, or not signed by the key asked for; names the file.
        SettingError: the key can't be read.
        MissingExtra: a key is given and cryptography is not installed.
    """
    public = None if public_key is None else read_public(public_key)
    root = Path(path)
    if not root.is_dir():
        raise BundleError("there is no bundle", where=str(root), remedy="name the folder that Result.save wrote")
    root = root.resolve()
    found = set(walk(root))
    stamps: dict[str, Stamp] = {}
    if MANIFEST not in found and DESCRIPTION in found:
        raise BundleError(
            "the folder holds an artifact of leanly.lower, which nothing protects, and no bundle",
            where=str(root),
            remedy="leanly.runtimes.open_artifact(leanly.Artifact.open(folder)) opens it; Result.save makes bundles",
        )
    text = _read_text(root, MANIFEST, found, stamps)
    manifest = read_manifest(text, str(root / MANIFEST))
    signature = None
    if manifest.signed_by is not None:
        signature = read_signature(
            _read_text(root, SIGNATURE, found, stamps), manifest.signed_by, str(root / SIGNATURE)
        )
    if public is not None:
        check(text, signature, manifest.signed_by, public, str(root))
    expected = {*manifest.files, *stamps}
    for name in sorted(expected - found):
        raise BundleError("a file is missing", where=str(root / name), remedy=COPY_AGAIN)
    for name in sorted(found - expected):
        raise BundleError(
            "there is a file that does not belong to the bundle", where=str(root / name), remedy=COPY_AGAIN
        )
    for name, (code, size) in manifest.files.items():
        hashed, stamps[name] = read_hash(root / name, root)
        if (hashed, stamps[name][2]) != (code, size):
            raise BundleError("a file was altered: it does not fit its hash", where=str(root / name), remedy=COPY_AGAIN)
    return Contents(
        root, _document(root, manifest.files), manifest.files, manifest.signed_by, public is not None, stamps
    )


def walk(root: Path, under: str = "") -> Iterator[str]:
    """Yield the path of every file below a folder, with `/`.

    Raises:
        BundleError: something is neither a file nor a folder with files: a link, a pipe, an empty folder.
    """
    with os.scandir(root / under) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    if under and not listed:
        raise BundleError("there is an empty folder", where=str(root / under), remedy=COPY_AGAIN)
    for entry in listed:
        name = f"{under}/{entry.name}" if under else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from walk(root, name)
        elif entry.is_file(follow_symlinks=False):
            yield name
        else:
            raise BundleError("there is a link or a device in the bundle", where=str(root / name), remedy=COPY_AGAIN)


def read_hash(path: Path, root: Path) -> tuple[str, Stamp]:
    """Return the SHA-256 of a file and its identity, both of the same open file; never follows a link."""
    with open(_open(path, root), "rb") as file:
        hashed = hashlib.file_digest(file, "sha256").hexdigest()
        return hashed, stamp_of(os.fstat(file.fileno()))


def stamp_of(found: os.stat_result) -> Stamp:
    """Return what tells whether a file is still the same."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _open(path: Path, root: Path) -> int:
    try:
        # NONBLOCK: a pipe put in the place of a file must not make us wait for ever
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise BundleError(f"a file can't be read ({error.strerror})", where=str(path), remedy=COPY_AGAIN) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BundleError("there is a link or a device in the bundle", where=str(path), remedy=COPY_AGAIN)
    return handle


def _read_text(root: Path, name: str, found: set[str], stamps: dict[str, Stamp]) -> bytes:
    if name not in found:
        raise BundleError("a file is missing", where=str(root / name), remedy=COPY_AGAIN)
    with open(_open(root / name, root), "rb") as file:
        stamps[name] = stamp_of(os.fstat(file.fileno()))
        text = file.read(LARGEST_TEXT + 1)
    if len(text) > LARGEST_TEXT:
        raise BundleError("the file is too large to be a bundle's", where=str(root / name), remedy=COPY_AGAIN)
    return text


def _document(root: Path, files: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    if DOCUMENT not in files:
        raise BundleError("a file is missing", where=str(root / DOCUMENT), remedy=COPY_AGAIN)
    with open(_open(root / DOCUMENT, root), "rb") as file:
        text = file.read()
    if hashlib.sha256(text).hexdigest() != files[DOCUMENT][0]:
        raise BundleError("a file was altered while it was read", where=str(root / DOCUMENT), remedy=COPY_AGAIN)
    try:
        document = json.loads(text)
        document["artifacts"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"the description is damaged ({error!r})", where=str(root / DOCUMENT), remedy="save the bundle again"
        ) from error
    return document

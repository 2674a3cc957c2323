"""The manifest: SHA-256 and size of every file, in one text that has one form only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanly.errors import BundleError
from leanly.files import digest, sha256

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
FORMAT = 1
COPY_AGAIN = "do not use it: copy the bundle again, whole, from where it was made"


@dataclass(frozen=True)
class Manifest:
    """What a bundle must hold.

    Args:
        files: SHA-256 and bytes of each file by its path with `/`, without the manifest and the signature.
        signed_by: the public key in hex digits; None where the bundle is not signed.
    """

    files: Mapping[str, tuple[str, int]]
    signed_by: str | None = None

    def to_bytes(self) -> bytes:
        """Return the manifest's text, with a digest of its own."""
        content = {
            "format": FORMAT,
            "signed_by": self.signed_by,
            "files": {name: {"sha256": code, "bytes": size} for name, (code, size) in self.files.items()},
        }
        return one_text({**content, "digest": digest(content)})


def one_text(value: Any) -> bytes:
    """Return the one JSON text of a value that people can read too: sorted keys, one space of indent."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=True).encode() + b"\n"


def of_files(root: Path, names: Iterable[str], signed_by: str | None) -> Manifest:
    """Hash the named files."""
    return Manifest({name: (sha256(root / name), (root / name).stat().st_size) for name in names}, signed_by)


def read_manifest(text: bytes, where: str) -> Manifest:
    """Read a manifest's text.

    Raises:
        BundleError: it is altered anywhere, even in its spaces, or of a newer format.
    """
    content = read_one_text(text, where)
    try:
        if not isinstance(content["format"], int) or content["format"] > FORMAT:
            raise BundleError(
                f"the bundle has format {content['format']!r}, this leanly reads up to {FORMAT}",
                where=where,
                remedy="install a newer leanly",
            )
        files = {name: (entry["sha256"], entry["bytes"]) for name, entry in content["files"].items()}
        manifest = Manifest(files, content["signed_by"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError("the manifest is damaged", where=where, remedy=COPY_AGAIN) from error
    if manifest.to_bytes() != text:
        raise BundleError("the manifest was altered: it does not fit its own digest", where=where, remedy=COPY_AGAIN)
    return manifest


def read_one_text(text: bytes, where: str) -> dict[str, Any]:
    """Read what `one_text` wrote; any other text, though it may mean the same, is a BundleError."""
    try:
        content = json.loads(text)
        same = isinstance(content, dict) and one_text(content) == text
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"the file was altered: it is not valid JSON ({error})", where=where, remedy=COPY_AGAIN
        ) from error
    if not same:
        raise BundleError("the file was altered: it is not as leanly writes it", where=where, remedy=COPY_AGAIN)
    return content

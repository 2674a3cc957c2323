"""Ed25519 signatures (Bernstein et al. 2012, High-speed high-security signatures; RFC 8032)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanly.bundle.manifest import COPY_AGAIN, SIGNATURE, one_text, read_one_text
from leanly.errors import BundleError, MissingExtra, RunError, SettingError
from leanly.files import digest, make_folder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

# What is signed starts with this, so that a signature over a bundle can't be passed off as one over something else.
PURPOSE = b"leanly bundle manifest 1\n"

Key = str | Path | bytes
"""A file (PEM, or 32 raw bytes), or the bytes of one."""


def new_key(path: str | Path) -> Path:
    """Make a key pair: the private key at `path`, readable by its owner only, the public one beside it with `.pub`.

    Args:
        path: where the private key is written, as PEM.

    Returns:
        The path of the public key.

    Raises:
        RunError: a file of that name exists, or the folder can't be written.
        MissingExtra: cryptography is not installed.
    """
    ed25519, serialization = _library()
    path = Path(path)
    public_path = path.with_name(f"{path.name}.pub")
    private = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    texts = {
        path: private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        public_path: private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
    }
    make_folder(path.parent)
    for file, text in texts.items():
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if file == path else 0o644)
        except OSError as error:
            raise RunError(
                f"the key can't be written ({error.strerror})",
                where=str(file),
                remedy="name a file that does not exist yet",
            ) from error
        with open(handle, "wb") as opened:
            opened.write(text)
    return public_path


def read_private(key: Key) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        SettingError: it is no Ed25519 private key.
    """
    ed25519, serialization = _library()

    def from_pem(content: bytes) -> Any:
        return serialization.load_pem_private_key(content, password=None)

    return _read(key, "private", ed25519.Ed25519PrivateKey, ed25519.Ed25519PrivateKey.from_private_bytes, from_pem)


def read_public(key: Key) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        SettingError: it is no Ed25519 public key.
    """
    ed25519, serialization = _library()

    def from_pem(content: bytes) -> Any:
        if b"PRIVATE KEY" in content:
            raise ValueError("it is a private key")
        return serialization.load_pem_public_key(content)

    return _read(key, "public", ed25519.Ed25519PublicKey, ed25519.Ed25519PublicKey.from_public_bytes, from_pem)


def _read(key: Key, which: str, kind: Any, from_raw: Callable[[bytes], Any], from_pem: Callable[[bytes], Any]) -> Any:
    content, where = _content(key)
    try:
        found = from_raw(content) if len(content) == 32 else from_pem(content)
    except (ValueError, TypeError) as error:
        raise _not_a_key(which, where, str(error)) from error
    if not isinstance(found, kind):
        raise _not_a_key(which, where, f"it is a {type(found).__name__}")
    return found


def hex_of(public: Ed25519PublicKey) -> str:
    """Return a public key as hex digits."""
    return public.public_bytes_raw().hex()


def sign(manifest: bytes, private: Ed25519PrivateKey) -> bytes:
    """Return the text of the signature file for a manifest's text."""
    content = {
        "algorithm": "ed25519",
        "public_key": hex_of(private.public_key()),
        "signature": private.sign(PURPOSE + manifest).hex(),
    }
    return one_text({**content, "digest": digest(content)})


def read_signature(text: bytes, signed_by: str | None, where: str) -> bytes:
    """Read the signature file; says nothing yet about who signed.

    Raises:
        BundleError: it is altered, or by another key than the manifest names.
    """
    content = read_one_text(text, where)
    stated = content.pop("digest", None)
    fits = (
        digest(content) == stated and content.get("algorithm") == "ed25519" and content.get("public_key") == signed_by
    )
    try:
        if not fits:
            raise ValueError
        return bytes.fromhex(content["signature"])
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError("the signature was altered", where=where, remedy=COPY_AGAIN) from error


def check(
    manifest: bytes, signature: bytes | None, signed_by: str | None, public: Ed25519PublicKey, where: str
) -> None:
    """Check that the holder of the key signed this very manifest.

    Raises:
        BundleError: there is no signature, it is by another key, or it does not fit.
    """
    from cryptography.exceptions import InvalidSignature

    remedy = "do not use it: ask its maker for a bundle signed with the key that you trust"
    if signature is None:
        raise BundleError(
            "the bundle is not signed and a key was asked for", where=f"{where}/{SIGNATURE}", remedy=remedy
        )
    if signed_by != hex_of(public):
        raise BundleError(
            f"the bundle is signed by another key, {signed_by}", where=f"{where}/{SIGNATURE}", remedy=remedy
        )
    try:
        public.verify(signature, PURPOSE + manifest)
    except InvalidSignature as error:
        raise BundleError(
            "the signature does not fit the manifest", where=f"{where}/{SIGNATURE}", remedy=remedy
        ) from error


def _content(key: Key) -> tuple[bytes, str]:
    if isinstance(key, bytes):
        return key, "key"
    try:
        return Path(key).read_bytes(), str(key)
    except OSError as error:
        raise SettingError(
            f"the key can't be read ({error.strerror})",
            where=str(key),
            remedy="name a key file, such as leanly.bundle.new_key makes",
        ) from error


def _not_a_key(kind: str, where: str, why: str) -> SettingError:
    return SettingError(
        f"this is not an Ed25519 {kind} key ({why})",
        where=where,
        remedy="give a PEM file or 32 raw bytes, such as leanly.bundle.new_key makes",
    )


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtra(
            "cryptography is not installed", where="signatures", remedy='pip install "leanly[signing]"'
        ) from error
    return ed25519, serialization

"""Who signed."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leanly.bundle import load, new_key, verify
from leanly.errors import BundleError, MissingExtra, RunError, SettingError
from leanly.files import digest

pytest.importorskip("cryptography")
KEY = bytes(range(32))


def test_a_new_key_signs_and_its_public_half_verifies(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    public = new_key(tmp_path / "keys" / "mine")
    assert public == tmp_path / "keys" / "mine.pub"
    assert stat.S_IMODE((tmp_path / "keys" / "mine").stat().st_mode) == 0o600
    root = make_bundle(key=(tmp_path / "keys" / "mine").read_bytes())
    contents = verify(root, public)
    assert contents.checked
    assert contents.signed_by is not None and len(contents.signed_by) == 64
    assert verify(root).checked is False
    assert load(root, public_key=str(public)).contents.checked


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    new_key(tmp_path / "mine")
    before = (tmp_path / "mine").read_bytes()
    with pytest.raises(RunError, match="can't be written"):
        new_key(tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == before


def test_raw_bytes_and_files_of_raw_bytes(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    signed_by = verify(make_bundle(key=KEY)).signed_by
    assert signed_by is not None
    raw = tmp_path / "raw.pub"
    raw.write_bytes(bytes.fromhex(signed_by))
    assert verify(tmp_path / "model.leanly", raw).checked
    assert verify(tmp_path / "model.leanly", bytes.fromhex(signed_by)).checked


def test_another_key_and_no_signature_are_refused(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    public = new_key(tmp_path / "mine")
    with pytest.raises(BundleError, match="another key"):
        verify(make_bundle(key=KEY), public)
    with pytest.raises(BundleError, match="not signed"):
        verify(make_bundle("plain"), public)


def test_a_taken_away_signature_is_missed_without_a_key(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle(key=KEY)
    (root / "signature.json").unlink()
    with pytest.raises(BundleError, match="missing"):
        verify(root)


def test_a_signature_over_another_manifest_does_not_fit(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = make_bundle(key=KEY)
    other = tmp_path / "second"
    other.mkdir()
    # another bundle by the same key: its signature is genuine, for its own manifest
    from leanly import bundle

    artifact = bundle.load(root).artifact
    bundle.save(tmp_path / "second.leanly", artifacts={1: artifact}, document={}, key=KEY)
    (root / "signature.json").write_bytes((tmp_path / "second.leanly" / "signature.json").read_bytes())
    signed_by = verify(root).signed_by
    assert signed_by is not None
    with pytest.raises(BundleError, match="does not fit the manifest"):
        verify(root, bytes.fromhex(signed_by))


def test_a_forged_signature_with_a_digest_of_its_own(make_bundle: Callable[..., Path]) -> None:
    from leanly.bundle.manifest import one_text

    root = make_bundle(key=KEY)
    signed_by = verify(root).signed_by
    assert signed_by is not None
    content = {"algorithm": "ed25519", "public_key": signed_by, "signature": "00" * 64}
    (root / "signature.json").write_bytes(one_text({**content, "digest": digest(content)}))
    with pytest.raises(BundleError, match="does not fit"):
        verify(root, bytes.fromhex(signed_by))


def test_what_is_no_key(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = make_bundle(key=KEY)
    new_key(tmp_path / "mine")
    with pytest.raises(SettingError, match="it is a private key"):
        verify(root, tmp_path / "mine")
    with pytest.raises(SettingError, match="can't be read"):
        verify(root, tmp_path / "absent")
    with pytest.raises(SettingError, match="not an Ed25519 public key"):
        verify(root, b"short")
    with pytest.raises(SettingError, match="not an Ed25519 private key"):
        make_bundle("other", key=(tmp_path / "mine.pub").read_bytes())
    assert not (tmp_path / "other").exists()


def test_without_the_library_the_line_to_install_is_said(
    make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_bundle(key=KEY)
    for name in ("cryptography.hazmat.primitives", "cryptography.hazmat.primitives.asymmetric"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r'pip install "leanly\[signing\]"'):
        verify(root, KEY)
    assert verify(root).checked is False  # whole is known without it

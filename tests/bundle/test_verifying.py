"""Attacks on a bundle: each is one change that must be refused, by name."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from leanly.bundle import Contents, load, verify
from leanly.bundle.manifest import read_manifest
from leanly.errors import BundleError
from leanly.files import digest

KEY = bytes(range(32))


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def refused(root: Path, name: str, what: str | None = None) -> None:
    with pytest.raises(BundleError, match=what and re.escape(what)) as caught:
        verify(root)
    assert name in caught.value.where


def test_an_untouched_bundle_passes(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    contents = verify(root)
    assert isinstance(contents, Contents)
    assert contents.document["best"] == 4
    assert contents.signed_by is None
    assert contents.bytes == sum(path.stat().st_size for path in files_of(root))
    assert set(contents.stamps) == {path.relative_to(root).as_posix() for path in files_of(root)}


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "signed"])
def test_every_file_flipped_cut_and_lengthened_is_refused(make_bundle: Callable[..., Path], key: bytes | None) -> None:
    root = make_bundle(key=key)
    paths = files_of(root)
    assert len(paths) == (9 if key else 8)
    for path in paths:
        whole = path.read_bytes()
        size = len(whole)
        positions = {0, 1, size // 3, size // 2, size - 2, size - 1}
        changed = [whole[:-1], whole[: size // 2], b"", whole + b"\0", whole + b"\n", whole + b" ", whole * 2]
        for position in positions:
            for bit in (0x01, 0x20, 0x80):  # 0x20 turns letters to the other case and spaces to NUL
                changed.append(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
        for content in changed:
            path.write_bytes(content)
            with pytest.raises(BundleError) as caught:
                verify(root)
            assert root.name in caught.value.where
        path.write_bytes(whole)
    verify(root)


@pytest.mark.parametrize("name", ["manifest.json", "signature.json"])
def test_every_single_byte_of_the_texts_is_covered(make_bundle: Callable[..., Path], name: str) -> None:
    path = make_bundle(key=KEY) / name
    whole = path.read_bytes()
    for position, byte in enumerate(whole):
        path.write_bytes(whole[:position] + bytes([byte ^ 1]) + whole[position + 1 :])
        with pytest.raises(BundleError):
            verify(path.parent)


def test_a_missing_file_is_named(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle(key=KEY)
    for path in files_of(root):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(BundleError) as caught:
            verify(root)
        # the last file of a folder leaves the folder empty, which is said instead
        assert str(path).startswith(caught.value.where)
        path.write_bytes(content)
    verify(root)


@pytest.mark.parametrize("name", [".hidden", ".git/config", "graph/__pycache__/x.pyc", "artifacts/batch-1/model.onnx~"])
def test_an_extra_file_is_named(make_bundle: Callable[..., Path], name: str) -> None:
    root = make_bundle()
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"")
    refused(root, name, "does not belong")


def test_a_signature_nobody_announced_is_extra(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    shutil.copy(make_bundle("other", key=KEY) / "signature.json", root)
    refused(root, "signature.json", "does not belong")


def test_an_extra_folder_is_named(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    (root / "graph" / "empty").mkdir()
    refused(root, "graph/empty", "empty folder")


def test_links_are_refused_even_to_the_same_content(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = make_bundle()
    path = root / "graph" / "weights.bin"
    outside = tmp_path / "weights.bin"
    path.rename(outside)
    path.symlink_to(outside)
    refused(root, "weights.bin", "link")


def test_a_linked_folder_is_refused(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = make_bundle()
    (root / "graph").rename(tmp_path / "elsewhere")
    (root / "graph").symlink_to(tmp_path / "elsewhere")
    refused(root, "graph", "link")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    (root / "graph" / "weights.bin").unlink()
    os.mkfifo(root / "graph" / "weights.bin")
    refused(root, "weights.bin", "link or a device")


def test_files_swapped_with_each_other_are_refused(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    one, two = (root / "artifacts" / name / "model.onnx" for name in ("batch-1", "batch-16"))
    first, second = one.read_bytes(), two.read_bytes()
    assert first != second
    one.write_bytes(second)
    two.write_bytes(first)
    refused(root, "model.onnx", "hash")


def test_a_newer_format_says_what_to_install(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    path = root / "manifest.json"
    content = json.loads(path.read_text())
    content["format"] = 2
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    with pytest.raises(BundleError, match="newer leanly"):
        verify(root)


def test_a_manifest_whose_digest_was_made_again_still_does_not_vouch_for_other_text() -> None:
    # the same JSON in another form is another text: there is one form only
    content = {"files": {}, "format": 1, "signed_by": None}
    text = json.dumps({**content, "digest": digest(content)}).encode()
    with pytest.raises(BundleError, match="not as leanly writes it"):
        read_manifest(text, "manifest.json")


@pytest.mark.parametrize("text", [b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"format": "1"}', b"1e999"])
def test_a_manifest_of_rubbish_is_refused(make_bundle: Callable[..., Path], text: bytes) -> None:
    root = make_bundle()
    (root / "manifest.json").write_bytes(text)
    refused(root, "manifest.json")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        verify(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="missing"):
        verify(tmp_path / "empty")


def test_load_verifies_first(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    path = root / "measurements" / "latency" / "1.json"
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    with pytest.raises(BundleError, match="hash"):
        load(root)


def test_the_folder_itself_may_be_a_link(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(make_bundle())
    assert verify(tmp_path / "current").document["verdict"] == "pass"

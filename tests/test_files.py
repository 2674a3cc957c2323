"""Files that are whole or absent."""

from pathlib import Path

import pytest

import leanly
from leanly.files import replacing, write_bytes


def test_a_file_is_replaced_only_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    write_bytes(path, b"first")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"torn")
        raise ZeroDivisionError
    assert path.read_bytes() == b"first" and [*path.parent.iterdir()] == [path]
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second" and [*path.parent.iterdir()] == [path]


def test_a_folder_in_the_file_s_place_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(leanly.LeanlyError, match="there is a folder") as caught, replacing(tmp_path):
        raise AssertionError("the block must not run")
    assert caught.value.where == str(tmp_path) and not [*tmp_path.iterdir()]

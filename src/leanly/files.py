"""Files that are whole or absent: temporary name, flush, rename; hashes; paths that stay inside their folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leanly.errors import BundleError, RunError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file path beside `path`; rename it to `path` when the block ends well, delete it otherwise.

    Raises:
        RunError: a folder is there, or nothing can be written beside it.
    """
    path = Path(path)
    if path.is_dir():
        raise RunError("there is a folder where the file would be", where=str(path), remedy="name a file")
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise RunError(
            f"the file can't be written ({error.strerror})", where=str(path), remedy="name a folder you may write to"
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path, mark: str, what: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it becomes `path` (an older one is removed) when the block ends well.

    Args:
        path: of the folder; it need not exist, and may be empty.
        mark: the file that every folder of this kind holds: one that holds anything else is not written over.
        what: the kind, for the message.

    Raises:
        RunError: there is something else, or no room for the files.
    """
    path = Path(path)
    _check_replaceable(path, mark, what)
    make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        try:
            yield temporary
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise RunError(
                f"{what} can't be written ({error.strerror})", where=str(path), remedy="make room, or name another disk"
            ) from error
        temporary.chmod(0o755)
        old = None
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent)) / "was"
            path.replace(old)
        temporary.replace(path)
        if old is not None:
            shutil.rmtree(old.parent)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def _check_replaceable(path: Path, mark: str, what: str) -> None:
    if not path.exists() and not path.is_symlink():
        return
    ours = path.is_dir() and not path.is_symlink()
    if not ours or (any(path.iterdir()) and not (path / mark).is_file()):
        raise RunError(
            f"there is something that is not {what}", where=str(path), remedy="name a folder that does not exist yet"
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file or nothing, readable by people."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; one that is missing, torn or can't be read is a BundleError that names it."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise BundleError("a file is missing", where=str(path), remedy="copy the folder again, whole") from error
    except OSError as error:
        remedy = "name the folder that was written, and see that you may read it"
        raise BundleError(f"it can't be read ({error.strerror})", where=str(path), remedy=remedy) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(
            f"a file is not valid JSON ({error})", where=str(path), remedy="copy the folder again, whole"
        ) from error


def make_folder(path: Path) -> None:
    """Make a folder and its parents; a RunError says why it can't be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the folder can't be made ({error.strerror})", where=str(path), remedy="name a folder you may write to"
        ) from error


def cache_folder() -> Path:
    """Return where what was made on this machine is kept for other runs; it need not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leanly"


def check_place(path: Path) -> None:
    """Raise a RunError where nothing can be written at a path, without writing: said before work, not after it."""
    there = next(place for place in (Path(path).absolute(), *Path(path).absolute().parents) if place.exists())
    if there == Path(path).absolute() and there.is_file():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RunError(
            f"nothing can be written there ({there} is {'write-protected' if there.is_dir() else 'a file'})",
            where=str(path),
            remedy="name a folder you may write to",
        )


def inside(root: Path, relative: str) -> Path:
    """Return `root / relative`; a path that leaves `root` (absolute, `..`, a link out) is a BundleError."""
    root = Path(root).resolve()
    path = (root / relative).resolve()
    if path != root and root not in path.parents:
        raise BundleError(
            "a path leaves its folder", where=relative, remedy="do not use this folder: it was made by hand"
        )
    return path

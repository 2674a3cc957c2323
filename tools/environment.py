"""Make the virtual environment that `make` works in; the standard library only, since nothing else is there yet.

    python3 tools/environment.py EXTRA [FOLDER]

An environment is ready when its stamp says so: the stamp is taken away before anything is changed and written last, so
one that was cut off in the middle is made anew the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)


def wanted(extra: str) -> str:
    """Return what the stamp of an up-to-date environment says."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return f"{extra} {sys.version_info.major}.{sys.version_info.minor} {hashlib.sha256(content).hexdigest()}"


def covers(stamp: str, wanted: str) -> bool:
    """Say whether an environment with this stamp holds what is wanted; `test` includes every other extra."""
    have, need = stamp.split(), wanted.split()
    return have == need or (have[1:] == need[1:] and have[:1] == ["test"])


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time work on the environment."""
    with open(folder.parent / f"{folder.name}.lock", "w") as lock:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def clear(folder: Path) -> None:
    """Take an older or half-made environment away, whole; never a folder that is something else."""
    if any(path.is_file() for path in folder.glob("*")) and not (folder / "pyvenv.cfg").exists():
        raise SystemExit(f"{folder} is no virtual environment: name another with make VENV=...")
    trash = folder.with_name(f"{folder.name}.trash")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        folder.rename(trash)
        shutil.rmtree(trash)


def make(extra: str, folder: Path) -> None:
    """Make or update the environment, so that the package with this extra is in it."""
    stamp = folder / "ready"
    found = stamp.read_text() if stamp.exists() else ""
    if covers(found, wanted(extra)):
        return
    if found.split()[1:2] != wanted(extra).split()[1:2]:
        print(f"making {folder}, once: this takes some minutes", flush=True)
        clear(folder)
        venv.create(folder, with_pip=True)
    elif found.startswith("test "):
        extra = "test"
    stamp.unlink(missing_ok=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*command, "-c", "constraints.txt", "-e", f".[{extra}]"], check=True, cwd=ROOT)
    temporary = folder / "ready.tmp"
    temporary.write_text(wanted(extra))
    temporary.replace(stamp)


def main() -> int:
    """Read the command line; a failure of pip has already been told by pip."""
    if sys.version_info < OLDEST:
        oldest, found = ".".join(map(str, OLDEST)), sys.version.split()[0]
        print(f"Python {oldest} or newer is needed, this is {found}: make PYTHON=python{oldest}")
        return 2
    extra = sys.argv[1]
    folder = ROOT / (sys.argv[2] if len(sys.argv) > 2 else ".venv")
    try:
        with alone(folder):
            make(extra, folder)
    except subprocess.CalledProcessError as error:
        print("the environment is not ready; the same command takes it up again", file=sys.stderr)
        return error.returncode or 1
    except KeyboardInterrupt:
        print("stopped; the next make starts the environment anew", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

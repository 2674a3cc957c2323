"""leanly's own kernels, compiled on this machine when a model first needs them, and kept for the next time."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from pathlib import Path

import openvino as ov

from leanly.errors import LoweringError
from leanly.files import cache_folder, digest, make_folder, replacing, sha256

SOURCES = Path(__file__).parent / "kernels"
EXTENSION = "openvino_extension.cpp"
COMPILERS = ("g++", "clang++", "c++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared")
SECONDS = 300


def compiler() -> str | None:
    """Return the C++ compiler: `$CXX`, or the first that is found."""
    names = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


@functools.cache
def openvino_extension() -> Path:
    """Return the library of leanly's operations for OpenVINO; the first call on a machine compiles it, in some 20 s.

    Raises:
        LoweringError: no compiler is there, or it failed.
    """
    program = compiler()
    if program is None:
        raise LoweringError(
            "the kernel of one-bit layers has to be compiled, and no C++ compiler was found",
            where="leanly.runtimes",
            remedy='install one (apt-get install g++), or lower with precision="int8", which runs anywhere',
        )
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    key = digest(
        {
            "sources": {path.name: sha256(path) for path in sorted(SOURCES.iterdir())},
            "compiler": [program, version],
            "flags": FLAGS,
            "openvino": ov.__version__,
        }
    )
    library = _cache() / f"openvino-{key[:32]}.so"
    if not library.exists():
        with replacing(library) as temporary:
            _compile(program, temporary)
    return library


def instructions() -> str:
    """Name the instructions of this processor that the kernel of signs counts bits with."""
    function = ctypes.CDLL(str(openvino_extension())).leanly_level
    function.restype = ctypes.c_char_p
    return function().decode()


def _cache() -> Path:
    """Code is run from here: nobody else may write to it."""
    folder = cache_folder()
    make_folder(folder)
    folder.chmod(0o700)
    return folder


def _compile(program: str, library: Path) -> None:
    package = Path(ov.__file__).parent
    libraries = [
        next((package / "libs").glob(f"lib{name}.so*")) for name in ("openvino", "openvino_onnx_frontend", "tbb")
    ]
    command = [program, *FLAGS, f"-I{package / 'include'}", str(SOURCES / EXTENSION), "-o", str(library)]
    command += [*map(str, libraries), f"-Wl,-rpath,{package / 'libs'}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoweringError(
            f"the kernel of one-bit layers was not compiled within {SECONDS} s",
            where=str(SOURCES / EXTENSION),
            remedy='try on a machine that is less busy, or lower with precision="int8"',
        ) from error
    if done.returncode != 0:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
        raise LoweringError(
            f"{Path(program).name} does not compile the kernel of one-bit layers ({said})",
            where=str(SOURCES / EXTENSION),
            remedy='use g++ 9 or newer (CXX=g++), or lower with precision="int8"',
        )

"""`leanly doctor`"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil

from leanly.cli.tables import table

# What each extra is for. Which packages it needs is read from what was installed, so that it can't be told wrongly.
EXTRAS = {
    "torch": "capture a model; the runtime `torch`",
    "onnxruntime": "the runtime ONNX Runtime",
    "openvino": "the runtime OpenVINO",
    "signing": "sign bundles, check signatures",
    "demo": "`leanly demo` on real digits",
    "bert": "`leanly demo --model bert`",
}


def doctor() -> None:
    """Say what this machine is good at, what is installed, and the line that installs what is missing."""
    from leanly.target import Target

    target = Target()
    machine = target.machine
    print(
        table(
            ["machine", ""],
            [
                ["processor", machine.processor],
                ["cores", f"{machine.cores} that this process may use"],
                ["memory", f"{machine.memory_bytes / 2**30:.1f} GiB"],
                ["instruction sets", ", ".join(sorted(machine.isa)) or "none that matter here"],
                [
                    "int8",
                    "32-bit sums (VNNI)" if target.vnni else "16-bit sums of two products: weights take wider steps",
                ],
                ["bfloat16", "multiplied by the processor" if target.bf16 else "not in hardware"],
                ["system", machine.os],
                ["compiler", compiler() or "none: the runtime `torch` runs in eager mode; install g++ or clang"],
            ],
        )
    )
    print("\n" + table(["package", "version"], [[name, version] for name, version in target.versions().items()]))
    rows, missing = [], []
    for extra, purpose in EXTRAS.items():
        absent = absent_packages(extra)
        rows.append([extra, purpose, f"missing: {', '.join(absent)}" if absent else "installed"])
        missing += [extra] if absent else []
    print("\n" + table(["extra", "what for", "state"], rows))
    if missing:
        print(f'\nto install what is missing: pip install "leanly[{",".join(missing)}]"')


def compiler() -> str:
    """Return the path of the C++ compiler that torch.compile would call, empty when there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++", "cl"):
        found = shutil.which(name.split()[0]) if name and name.split() else None
        if found:
            return found
    return ""


def absent_packages(extra: str) -> list[str]:
    """Return the packages that an extra asks for and that are not installed."""
    try:
        requirements = importlib.metadata.requires("leanly") or []
    except importlib.metadata.PackageNotFoundError:
        return ["leanly itself: it runs from a folder"]
    absent: list[str] = []
    for requirement in requirements:
        wanted, _, marker = requirement.partition(";")
        if not re.search(rf"""extra\s*==\s*['"]{extra}['"]""", marker):
            continue
        name = re.match(r"[\w.-]+", wanted.strip())
        if name and name.group() != "leanly" and not _installed(name.group()):
            absent.append(name.group())
    return list(dict.fromkeys(absent))


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

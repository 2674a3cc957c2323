"""Machine: what is read of the machine this process runs on, and of its share of it."""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from leanly.errors import SettingError

# What the kernel calls a feature, and what we do. Names on the right are the words of the reports.
_FLAGS = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimddp": "arm_dot",
    "i8mm": "arm_i8mm",
    "bf16": "arm_bf16",
}
_SYSCTL_FLAGS = {
    "hw.optional.arm.FEAT_DotProd": "arm_dot",
    "hw.optional.arm.FEAT_I8MM": "arm_i8mm",
    "hw.optional.arm.FEAT_BF16": "arm_bf16",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512",
    "hw.optional.avx512vnni": "avx512_vnni",
}


@dataclass(frozen=True)
class Machine:
    """What was read of the machine; an entry that can't be read is empty or 0.

    Args:
        processor: its name as the system gives it.
        cores: physical cores that this process may use (affinity and container limits counted).
        memory_bytes: memory of the machine.
        isa: instruction sets that matter here: avx2, avx512, avx512_vnni, avx_vnni, avx512_bf16, amx_int8, amx_bf16,
            arm_dot, arm_i8mm, arm_bf16.
        cuda: name and capability of the CUDA device, empty for a CPU target.
        os: name and release of the system.
        python: version of the interpreter.
    """

    processor: str
    cores: int
    memory_bytes: int
    isa: frozenset[str]
    cuda: str
    os: str
    python: str


@functools.cache
def read_machine(device: str = "cpu") -> Machine:
    """Read this machine once: /proc on Linux, sysctl on macOS, psutil elsewhere."""
    cpuinfo = _text("/proc/cpuinfo")
    if cpuinfo:
        processor, isa, memory = (*parse_cpuinfo(cpuinfo), _meminfo_bytes(_text("/proc/meminfo")))
    elif sys.platform == "darwin":
        processor = _sysctl("machdep.cpu.brand_string")
        isa = frozenset(flag for key, flag in _SYSCTL_FLAGS.items() if _sysctl(key) == "1")
        memory = int(_sysctl("hw.memsize") or 0)
    else:
        processor, isa, memory = platform.processor(), frozenset(), int(psutil.virtual_memory().total)
    return Machine(
        processor=processor or platform.machine(),
        cores=allowed_cores(),
        memory_bytes=memory,
        isa=isa,
        cuda=cuda_name(device),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Read the processor's name and its instruction sets from the text of /proc/cpuinfo."""
    name = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    words = set(flags.group(1).split()) if flags else set()
    return (name.group(1).strip() if name else ""), frozenset(_FLAGS[word] for word in words & set(_FLAGS))


def physical_cores(text: str, processors: Iterable[int]) -> int:
    """Count the different cores under the given processors, from the text of /proc/cpuinfo; 0 if it does not say."""
    cores: set[tuple[str, str]] = set()
    wanted = set(processors)
    for block in text.split("\n\n"):
        entry = dict(re.findall(r"^(processor|physical id|core id)\s*:\s*(\d+)$", block, re.MULTILINE))
        if "core id" in entry and int(entry.get("processor", -1)) in wanted:
            cores.add((entry.get("physical id", "0"), entry["core id"]))
    return len(cores)


@functools.cache
def allowed_cores() -> int:
    """Count the physical cores that this process may use: affinity and the container's share counted."""
    processors = _affinity()
    cores = physical_cores(_text("/proc/cpuinfo"), processors)
    if not cores and sys.platform == "darwin":
        cores = int(_sysctl("hw.physicalcpu") or 0)
    if not cores:
        cores = min(psutil.cpu_count(logical=False) or len(processors), len(processors))
    return max(1, min(cores or len(processors), _quota() or len(processors)))


def allowed_processors() -> int:
    """Count the logical processors that this process may use."""
    processors = len(_affinity())
    return max(1, min(processors, _quota() or processors))


def busy_share(seconds: float = 0.2) -> float:
    """Return which share of the machine's processors programs use while this one waits for some seconds."""
    return psutil.cpu_percent(interval=seconds) / 100


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota() -> int | None:
    """Whole processors of the container's share; a share such as 1.5 counts as 1 so that no thread is held back."""
    share = _text("/sys/fs/cgroup/cpu.max").split()
    if len(share) != 2:
        share = [_text(f"/sys/fs/cgroup/cpu/cpu.cfs_{part}_us").strip() for part in ("quota", "period")]
    if not all(part.isdigit() for part in share) or int(share[1]) == 0:
        return None
    return max(1, int(share[0]) // int(share[1]))


def _meminfo_bytes(text: str) -> int:
    found = re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _sysctl(key: str) -> str:
    done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def cuda_name(device: str) -> str:
    """Return name and capability of a CUDA device, empty for another; a SettingError says that it is not there."""
    if not device.startswith("cuda"):
        return ""
    import torch

    index = int(device.partition(":")[2] or 0)
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise SettingError(
            f"device {device!r} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices",
            where="Target.device",
            remedy='use Target("cpu"), or a machine with that device and a CUDA build of PyTorch',
        )
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)} (capability {major}.{minor})"

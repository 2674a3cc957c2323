"""Target: where the model will run, and what that machine is good at (read, not assumed)."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from leanly.artifact import RUNTIMES
from leanly.errors import LeanlyWarning, MissingExtra, SettingError
from leanly.suggest import suggestion

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
_PACKAGES = ("leanly", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino")


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


@dataclass(frozen=True, init=False)
class Target:
    """Where the model will run.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        threads: threads of a call; by default the physical cores that this process may use.
        batch_sizes: rows in a call, each timed.
        runtimes: which may be used ("onnxruntime", "openvino", "torch"); by default all that are installed.

    Raises:
        SettingError: a value that is unknown or out of its range.
    """

    device: str
    threads: int
    batch_sizes: tuple[int, ...]
    runtimes: tuple[str, ...] | None

    def __init__(
        self,
        device: str = "cpu",
        threads: int | None = None,
        batch_sizes: Iterable[int] | int = (1,),
        runtimes: Iterable[str] | str | None = None,
    ) -> None:
        _check_device(device)
        cores = allowed_cores()
        if threads is not None and (not _is_count(threads)):
            raise SettingError(
                f"threads is {threads!r}, which is not a whole number above 0",
                where="Target.threads",
                remedy=f"write a number such as {cores}, or leave it out for {cores}, the cores this process may use",
            )
        if threads is not None and threads > (limit := _allowed_processors()):
            warnings.warn(
                f"threads is {threads}, but this process may use {limit} processors: times will be worse and "
                f"vary more. What to do: use threads={cores}.",
                LeanlyWarning,
                stacklevel=2,
            )
        sizes = (batch_sizes,) if isinstance(batch_sizes, int) else tuple(batch_sizes)
        if not sizes or not all(map(_is_count, sizes)) or len(set(sizes)) != len(sizes):
            raise SettingError(
                f"batch_sizes is {sizes!r}, which is not one or more different whole numbers above 0",
                where="Target.batch_sizes",
                remedy="write for example batch_sizes=(1, 16)",
            )
        set_field = object.__setattr__
        set_field(self, "device", device)
        set_field(self, "threads", cores if threads is None else int(threads))
        set_field(self, "batch_sizes", tuple(int(size) for size in sizes))
        set_field(self, "runtimes", _check_runtimes(runtimes, device))

    @property
    def machine(self) -> Machine:
        """What was read of this machine."""
        return read_machine(self.device)

    @property
    def vnni(self) -> bool:
        """Whether 8-bit products add up in 32 bits without saturating (VNNI, AMX, ARM dot product)."""
        return bool(self.machine.isa & {"avx512_vnni", "avx_vnni", "amx_int8", "arm_dot", "arm_i8mm"})

    @property
    def bf16(self) -> bool:
        """Whether the processor multiplies in bfloat16."""
        return bool(self.machine.isa & {"avx512_bf16", "amx_bf16", "arm_bf16"})

    def allowed(self) -> tuple[str, ...]:
        """Return the runtimes that may be used and are installed.

        Raises:
            MissingExtra: one was asked for by name and is not installed, or none is.
        """
        installed = tuple(name for name in RUNTIMES if importlib.util.find_spec(name) is not None)
        missing = [name for name in self.runtimes or () if name not in installed]
        if missing:
            raise MissingExtra(
                f"runtime {missing[0]!r} is asked for and not installed",
                where="Target.runtimes",
                remedy=f'run: pip install "leanly[{",".join(missing)}]"',
            )
        usable = tuple(
            name for name in self.runtimes or installed if not (_is_cuda(self.device) and name == "openvino")
        )
        if not usable:
            raise MissingExtra(
                "no runtime is installed", where="Target.runtimes", remedy='run: pip install "leanly[onnxruntime]"'
            )
        return usable

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that shape a result, those that are installed."""
        found = {"python": platform.python_version()}
        for package in _PACKAGES:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return found


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
        cuda=_cuda_name(device),
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


def _allowed_processors() -> int:
    processors = len(_affinity())
    return max(1, min(processors, _quota() or processors))


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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_cuda(device: str) -> bool:
    return device.startswith("cuda")


def _check_device(device: object) -> None:
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise SettingError(
            f"there is no device {device!r}",
            where="Target.device",
            remedy=suggestion(device, ("cpu", "cuda", "cuda:0")),
        )
    if _is_cuda(device):
        _cuda_name(device)


def _cuda_name(device: str) -> str:
    if not _is_cuda(device):
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


def _check_runtimes(runtimes: Iterable[str] | str | None, device: str) -> tuple[str, ...] | None:
    if runtimes is None:
        return None
    names = (runtimes,) if isinstance(runtimes, str) else tuple(runtimes)
    if not names or len(set(names)) != len(names):
        raise SettingError(
            f"runtimes is {names!r}, which is not one or more different names",
            where="Target.runtimes",
            remedy="leave it out to allow all that are installed",
        )
    for name in names:
        if name not in RUNTIMES:
            raise SettingError(
                f"there is no runtime {name!r}", where="Target.runtimes", remedy=suggestion(name, RUNTIMES)
            )
        if name == "openvino" and _is_cuda(device):
            raise SettingError(
                "runtime 'openvino' does not run on CUDA devices",
                where="Target.runtimes",
                remedy='use "onnxruntime" or "torch", or Target("cpu")',
            )
    return names

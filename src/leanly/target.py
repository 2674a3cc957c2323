"""Target: where the model will run, and what that machine is good at (read, not assumed)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

from leanly.artifact import RUNTIMES
from leanly.errors import LeanlyWarning, MissingExtra, SettingError
from leanly.machine import Machine, allowed_cores, allowed_processors, cuda_name, read_machine
from leanly.suggest import suggestion

_PACKAGES = ("leanly", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino")


@dataclass(frozen=True, init=False)
class Target:
    """Where the model will run.

    Args:
        device: "cpu"; "cuda" and "cuda:N" tell what a GPU is, but no runtime runs there yet.
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
        if threads is not None and threads > (limit := allowed_processors()):
            warnings.warn(
                f"threads is {threads}, but this process may use {limit} processors: times will be worse and "
                f"vary more. What to do: use threads={cores}.",
                LeanlyWarning,
                stacklevel=2,
            )
        sizes = tuple(batch_sizes) if isinstance(batch_sizes, Iterable) else (batch_sizes,)
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
        set_field(self, "runtimes", _check_runtimes(runtimes))

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

    def check_measurable(self) -> None:
        """Raise a SettingError for a GPU: no runtime runs there yet, so that the CPU would be measured."""
        if _is_cuda(self.device):
            raise SettingError(
                f"no runtime of leanly runs on {self.device!r} yet: what was measured would be the CPU",
                where="Target.device",
                remedy='use Target("cpu") where something is lowered or measured; passes and training run where the '
                'graph lies, graph.to("cuda")',
            )

    def allowed(self) -> tuple[str, ...]:
        """Return the runtimes that may be used and are installed.

        Raises:
            MissingExtra: one was asked for by name and is not installed, or none is.
            SettingError: the device is a GPU, on which none runs yet.
        """
        self.check_measurable()
        installed = installed_runtimes()
        missing = [name for name in self.runtimes or () if name not in installed]
        if missing:
            raise MissingExtra(
                f"runtime {missing[0]!r} is asked for and not installed",
                where="Target.runtimes",
                remedy=f'run: pip install "leanly[{",".join(missing)}]"',
            )
        usable = tuple(self.runtimes or installed)
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


def installed_runtimes() -> tuple[str, ...]:
    """Return the runtimes that are installed."""
    return tuple(name for name in RUNTIMES if importlib.util.find_spec(name) is not None)


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


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
        cuda_name(device)


def _check_runtimes(runtimes: Iterable[str] | str | None) -> tuple[str, ...] | None:
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
    return names

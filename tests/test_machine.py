import os
import platform
import subprocess
import sys

import pytest

from leanly import machine
from leanly.machine import allowed_cores, allowed_processors, busy_share, parse_cpuinfo, physical_cores, read_machine

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8 avx_vnni

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8481C
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu sse2

processor\t: 2
model name\t: Intel(R) Xeon(R) Platinum 8481C
physical id\t: 0
core id\t\t: 1
flags\t\t: fpu sse2

processor\t: 3
model name\t: Intel(R) Xeon(R) Platinum 8481C
physical id\t: 1
core id\t\t: 0
flags\t\t: fpu sse2
"""
GRAVITON = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd asimddp i8mm bf16 sve
CPU implementer\t: 0x41
"""


def test_instruction_sets_are_read_and_others_left_out():
    name, isa = parse_cpuinfo(XEON)
    assert name == "Intel(R) Xeon(R) Platinum 8481C"
    assert isa == {"avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "avx_vnni"}


def test_arm_is_read_too():
    assert parse_cpuinfo(GRAVITON) == ("", {"arm_dot", "arm_i8mm", "arm_bf16"})


@pytest.mark.parametrize("text", ["", "nonsense", "flags\t\t:\n"])
def test_what_is_not_said_is_empty(text):
    assert parse_cpuinfo(text) == ("", frozenset())


@pytest.mark.parametrize(
    ("processors", "cores"), [({0, 1, 2, 3}, 3), ({0, 1}, 1), ({1, 2}, 2), ({0, 3}, 2), (set(), 0), ({9}, 0)]
)
def test_hyperthreads_share_a_core_and_only_allowed_processors_count(processors, cores):
    assert physical_cores(XEON, processors) == cores


def test_cores_that_are_not_told_count_as_zero():
    assert physical_cores(GRAVITON, {0}) == 0


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
        ({}, None),
    ],
)
def test_a_container_s_share(monkeypatch, files, quota):
    monkeypatch.setattr(machine, "_text", lambda path: files.get(path, ""))
    assert machine._quota() == quota


def test_affinity_and_share_bound_the_cores(monkeypatch):
    files = {"/proc/cpuinfo": XEON, "/sys/fs/cgroup/cpu.max": "200000 100000\n"}
    monkeypatch.setattr(machine, "_text", lambda path: files.get(path, ""))
    monkeypatch.setattr(machine, "_affinity", lambda: {0, 1, 2, 3})
    assert allowed_cores.__wrapped__() == 2
    assert allowed_processors() == 2
    monkeypatch.setattr(machine, "_affinity", lambda: {0, 1})
    assert allowed_cores.__wrapped__() == 1


def test_this_machine():
    here = read_machine()
    assert here is read_machine()
    assert here.processor
    assert here.cores == allowed_cores() >= 1
    assert here.memory_bytes > 2**20
    assert here.cuda == ""
    assert here.python == platform.python_version()


def test_what_other_programs_use_is_seen():
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        assert busy_share(1.0) > 0.5
    finally:
        for process in spinning:
            process.kill()
            process.wait()

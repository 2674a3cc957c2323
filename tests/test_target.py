import dataclasses
import importlib.util
import subprocess
import sys

import pytest

from leanly import machine, target
from leanly.errors import LeanlyWarning, MissingExtra, SettingError
from leanly.machine import Machine
from leanly.measurement import measure
from leanly.target import Target


def with_isa(monkeypatch, *isa):
    read = Machine("a processor", 2, 1, frozenset(isa), "", "an os", "3")
    monkeypatch.setattr(target, "read_machine", lambda device: read)


def hide(monkeypatch, *missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))


def test_defaults_are_read_from_the_machine():
    here = Target()
    assert here.device == "cpu"
    assert here.threads == machine.allowed_cores() >= 1
    assert here.batch_sizes == (1,)
    assert here.runtimes is None


def test_a_target_is_frozen_hashable_and_can_be_replaced():
    one = Target(threads=1, batch_sizes=[1, 16])
    assert one == Target("cpu", 1, (1, 16))
    assert hash(one) == hash(Target("cpu", 1, (1, 16)))
    assert dataclasses.replace(one, batch_sizes=4).batch_sizes == (4,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.threads = 2  # type: ignore[misc]


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_must_be_a_count(threads):
    with pytest.raises(SettingError, match=r"threads is .* whole number above 0.*Where: Target.threads.*leave it out"):
        Target(threads=threads)


def test_more_threads_than_processors_is_warned():
    with pytest.warns(LeanlyWarning, match=r"threads is 100000, but this process may use \d+.*use threads=\d+"):
        Target(threads=100_000)


@pytest.mark.parametrize("sizes", [(), (0,), (-1,), (1, 1), (1.0,), ("1",), (True,), 0])
def test_batch_sizes_must_be_different_counts(sizes):
    with pytest.raises(SettingError, match=r"batch_sizes is .*Where: Target.batch_sizes.*batch_sizes=\(1, 16\)"):
        Target(batch_sizes=sizes)


@pytest.mark.parametrize(("device", "near"), [("cpuu", "'cpu'"), ("cud", "'cuda'"), ("tpu", "cuda:0"), (3, "cpu")])
def test_unknown_device(device, near):
    with pytest.raises(SettingError, match=rf"no device .*{device}.*Where: Target.device.*{near}"):
        Target(device)


def test_a_cuda_device_that_is_not_there(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"'cuda:1' is not there.*What to do: use Target\(\"cpu\"\)"):
        Target("cuda:1")


def test_nothing_is_measured_on_a_gpu(monkeypatch, make_artifact):
    monkeypatch.setattr("leanly.target.cuda_name", lambda device: "a GPU")
    gpu = Target("cuda")
    for call in (gpu.allowed, lambda: measure(make_artifact(), gpu)):
        with pytest.raises(SettingError, match=r"no runtime .*'cuda'.*What to do: .*graph\.to"):
            call()


@pytest.mark.parametrize(
    ("runtimes", "near"), [("onnxruntme", "did you mean 'onnxruntime'"), (["torch", "openvin"], "'openvino'")]
)
def test_unknown_runtime_names_the_nearest(runtimes, near):
    with pytest.raises(SettingError, match=f"there is no runtime .*Where: Target.runtimes.*{near}"):
        Target(runtimes=runtimes)


@pytest.mark.parametrize("runtimes", [(), ("torch", "torch")])
def test_runtimes_must_be_different_names(runtimes):
    with pytest.raises(SettingError, match="one or more different names"):
        Target(runtimes=runtimes)


def test_allowed_keeps_the_order_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert Target(runtimes=("torch", "onnxruntime")).allowed() == ("torch", "onnxruntime")
    assert Target(runtimes="openvino").allowed() == ("openvino",)


def test_allowed_by_default_is_what_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    assert Target().allowed() == ("onnxruntime", "torch")


def test_a_runtime_asked_for_and_missing_names_the_line_to_type(monkeypatch):
    hide(monkeypatch, "openvino")
    with pytest.raises(MissingExtra, match=r'runtime \'openvino\'.*run: pip install "leanly\[openvino\]"'):
        Target(runtimes=("openvino",)).allowed()


def test_no_runtime_at_all(monkeypatch):
    hide(monkeypatch, "onnxruntime", "openvino", "torch")
    with pytest.raises(MissingExtra, match=r'no runtime is installed.*pip install "leanly\[onnxruntime\]"'):
        Target().allowed()


@pytest.mark.parametrize(
    ("isa", "vnni", "bf16"),
    [
        (("avx2",), False, False),
        (("avx2", "avx_vnni"), True, False),
        (("avx512", "avx512_vnni", "avx512_bf16"), True, True),
        (("amx_int8", "amx_bf16"), True, True),
        (("arm_dot",), True, False),
    ],
)
def test_what_the_machine_is_good_at(monkeypatch, isa, vnni, bf16):
    with_isa(monkeypatch, *isa)
    assert (Target().vnni, Target().bf16) == (vnni, bf16)


def test_versions_name_what_is_installed():
    versions = Target().versions()
    assert versions["python"].startswith("3.")
    assert "numpy" in versions


def test_reading_a_cpu_target_does_not_import_torch():
    code = (
        "import sys; from leanly.target import Target; t = Target(); t.machine, t.vnni, t.versions(), t.allowed(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

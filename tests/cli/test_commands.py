"""The command line, run as a process: what it prints, where, and its exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import leanly
from tests.forked import python


def run(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return python(["-m", "leanly", *arguments], cwd, {**os.environ, "COLUMNS": "200", **environment})


def mistake(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """A user's mistake: exit code 2, one paragraph on stderr, nothing on stdout, no trace."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "\n\n" not in done.stderr.strip()
    text = " ".join(done.stderr.split())
    for part in said:
        assert part in text


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("demo", "optimize", "measure", "profile", "run", "report", "verify", "doctor"):
        assert f"  {command} " in done.stdout
    code = (
        "import sys, leanly.cli.main\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'rich', 'scipy', 'cryptography'}\n"
        "print(sorted(heavy & {*sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


@pytest.mark.parametrize("command", ["demo", "optimize", "measure", "profile", "run", "report", "verify", "doctor"])
def test_each_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout


def test_version() -> None:
    assert run("--version").stdout == f"leanly {leanly.__version__}\n"


def test_an_unknown_command_is_a_mistake() -> None:
    done = run("optimise")
    assert done.returncode == 2
    assert "optimise" in done.stderr


def test_verify_says_what_it_checked(make_bundle: Callable[..., Path]) -> None:
    done = run("verify", make_bundle())
    assert done.returncode == 0, done.stderr
    assert "is as it was made: 8 files" in done.stdout
    assert "not signed" in done.stdout


def test_verify_with_a_key(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from leanly.bundle import new_key

    public = new_key(tmp_path / "mine")
    root = make_bundle(key=(tmp_path / "mine").read_bytes())
    assert "signed by the key that was asked for" in run("verify", root, "--public-key", public).stdout
    assert "not checked" in run("verify", root).stdout
    other = new_key(tmp_path / "other")
    mistake(run("verify", root, "--public-key", other), "another key")


def test_a_flipped_byte_is_refused_by_name(make_bundle: Callable[..., Path]) -> None:
    root = make_bundle()
    path = root / "artifacts" / "batch-16" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    for command in (["verify", root], ["run", root, root / "x.npy"], ["profile", root]):
        mistake(run(*command), "batch-16/model.onnx", "altered")


def test_run_prints_or_writes(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = make_bundle()
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", rows)
    printed = run("run", root, tmp_path / "x.npy")
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.splitlines()[0] == "y: float32 2x3"

    done = run("run", root, tmp_path / "x.npy", "--out", tmp_path / "y.npy")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), 2 * rows)

    np.savez(tmp_path / "x.npz", x=rows)
    done = run("run", root, tmp_path / "x.npz", "--out", tmp_path / "y.npz")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], 2 * rows)


def test_run_with_wrong_input(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = make_bundle()
    mistake(run("run", root, tmp_path / "absent.npy"), "no such file")
    (tmp_path / "text.npy").write_text("1, 2, 3")
    mistake(run("run", root, tmp_path / "text.npy"), "no array of numbers")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    mistake(run("run", root, tmp_path / "objects.npy"), "no array of numbers")
    np.save(tmp_path / "wide.npy", np.ones((1, 4), np.float32))
    mistake(run("run", root, tmp_path / "wide.npy"), "input x")
    np.savez(tmp_path / "named.npz", image=np.ones((1, 3), np.float32))
    mistake(run("run", root, tmp_path / "named.npz"), "the file has image, the model takes x")
    mistake(run("run", root, tmp_path / "wide.npy", "--out", tmp_path / "y.csv"), ".npy or .npz")


def test_profile_lists_kernels(make_bundle: Callable[..., Path], make_artifact: Callable[..., object]) -> None:
    artifact = make_artifact("alone")
    done = run("profile", artifact.folder)  # type: ignore[attr-defined]
    assert done.returncode == 0, done.stderr
    assert "onnxruntime, batch 1, " in done.stdout and ": 1 nodes as run" in done.stdout
    assert re.search(r"scale +Mul +float32 +ai.onnx +[0-9.]+ us", done.stdout)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    for command in ("verify", "measure", "profile"):
        mistake(run(command, tmp_path / "absent"), "there is no bundle")
        mistake(run(command, tmp_path), "neither a bundle")


def test_report_of_what_is_no_run(tmp_path: Path) -> None:
    mistake(run("report", tmp_path), "run.json")


def test_doctor_tells_the_machine_and_the_extras() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    for word in ("processor", "instruction sets", "compiler", "numpy", "onnxruntime", "signing"):
        assert word in done.stdout


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = f"{sys.executable} -m leanly doctor | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("machine\n", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-drop", "1 percent"], "max_drop"),
        (["--time", "0"], "more than 0"),
        (["--time", "-5min"], "more than 0"),
        (["--confidence", "1"], "confidence"),
        (["--batch-sizes", "1;16"], "--batch-sizes"),
        (["--batch-sizes", "0"], "batch_sizes"),
        (["--runtimes", "onnxrt"], "onnxruntime"),
        (["--threads", "0"], "threads"),
        (["--key", "absent.pem"], "can't be read"),
    ],
)
def test_wrong_options_are_told_before_any_work(options: list[str], said: str, tmp_path: Path) -> None:
    mistake(run("optimize", "absent.py:task", *options, cwd=tmp_path), said)
    assert list(tmp_path.iterdir()) == []


def test_places_that_can_not_be_written_are_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for option in ("--out", "--save"):
        mistake(run("optimize", "absent.py:task", option, "file/run", cwd=tmp_path), "nothing can be written there")


def test_ctrl_c_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("def slow():\n    raise KeyboardInterrupt\n")
    done = run("optimize", "task.py:slow", cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.startswith("leanly: stopped.") and "--resume" in done.stderr


def test_a_task_that_can_not_be_found(tmp_path: Path) -> None:
    mistake(run("optimize", "absent.py:task", cwd=tmp_path), "no such file")
    (tmp_path / "task.py").write_text("def fails():\n    return {}['key']\n")
    mistake(run("optimize", "task.py:fails", cwd=tmp_path), "task.py:2: return {}['key']", "KeyError")
    assert not (tmp_path / "runs").exists()


def test_a_missing_package_is_told_with_the_line_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("task = None\n")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "sys.argv = ['leanly', 'optimize', 'task.py:task', '--runtimes', 'onnxruntime']\n"
        "from leanly.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    mistake(done, "torch is not installed", 'pip install "leanly[cpu]"')


def test_measure_of_one_and_of_two(make_bundle: Callable[..., Path], make_artifact: Callable[..., object]) -> None:
    pytest.importorskip("leanly.measurement.measuring")
    root, artifact = make_bundle(), make_artifact("other")
    one = run("measure", root, "--batch-sizes", "1,16", "--time", "0.4s", "--threads", "1")
    assert one.returncode == 0, one.stderr
    assert "median latency" in one.stdout
    assert "float32, onnxruntime, 1 threads" in one.stdout
    two = run("measure", root, artifact.folder, "--time", "0.4s", "--threads", "1")  # type: ignore[attr-defined]
    assert two.returncode == 0, two.stderr
    assert "A takes" in two.stdout


def test_the_document_of_a_bundle_is_shown(make_artifact: Callable[..., object], tmp_path: Path) -> None:
    from leanly import bundle

    document = {"sentence": "Keep float32.", "versions": {"onnxruntime": "0.0.1"}}
    artifact = make_artifact()
    bundle.save(tmp_path / "b", artifacts={1: artifact}, document=document)  # type: ignore[dict-item]
    done = run("verify", tmp_path / "b")
    assert "Keep float32." in done.stdout
    assert "measured with onnxruntime 0.0.1" in done.stdout
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["format"] == 1

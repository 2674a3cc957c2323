"""Workers live, answer, die and are cleaned up; each test uses real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leanly.errors import WorkerError
from leanly.measurement.worker_main import Session
from leanly.measurement.workers import Worker

SOURCE = Path(__file__).resolve().parents[2] / "src"
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def python(code: str, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.Popen(command, text=True, env=environment, stdout=subprocess.PIPE, **settings)


def state(pid: int) -> str:
    """Return the state letter of a process, "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def gone(pid: int, seconds: float = 10) -> bool:
    """Wait until a process has ended (a zombie nobody has collected yet has ended, too)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if state(pid) == "Z":
            return True
        time.sleep(0.02)
    return False


def test_predicts_any_number_of_rows(make_artifact: Any) -> None:
    with Worker(make_artifact(factor=3.0), 1) as worker:
        for rows in (1, 5):
            x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
            (y,) = worker.predict([x])
            np.testing.assert_allclose(y, 3 * x)


def test_decoding_belongs_to_opening(make_artifact: Any) -> None:
    with Worker(replace(make_artifact(), decode_seconds=1e6), 1) as worker:
        assert worker.open_seconds > 1e6


def test_times_and_memory(make_artifact: Any) -> None:
    with Worker(make_artifact(), 1) as worker:
        worker.load("1", [np.zeros((1, 3), np.float32)])
        before = worker.open_seconds
        assert worker.warm("1", 0.05) > 0
        assert worker.open_seconds > before  # the first call belongs to opening
        samples = worker.time("1", 2, 7)
        assert len(samples) == 7
        assert min(samples) > 0
        peak = worker.peak_memory()
        assert peak is None or 1_000_000 < peak < 2_000_000_000


def test_the_artifact_is_opened_as_it_is_in_memory(make_artifact: Any) -> None:
    artifact = make_artifact()
    other = replace(artifact, runtime="abacus")
    with pytest.raises(WorkerError, match="unknown runtime 'abacus'") as caught:
        Worker(other, 1)
    assert "onnxruntime" in caught.value.remedy


def test_a_model_that_does_not_open_is_told_with_its_remedy(make_artifact: Any) -> None:
    artifact = make_artifact()
    artifact.model.write_bytes(b"not a model")
    with Worker(artifact, 1) as worker, pytest.raises(WorkerError, match="does not open"):
        worker.predict([np.zeros((1, 3), np.float32)])


def test_a_wrong_input_is_an_error_and_the_worker_lives_on(make_artifact: Any) -> None:
    with Worker(make_artifact(), 1) as worker:
        with pytest.raises(WorkerError, match="failed with"):
            worker.predict([np.zeros((1, 4), np.float32)])
        assert worker.predict([np.ones((1, 3), np.float32)])[0].shape == (1, 3)


@posix
def test_a_killed_worker_is_told(make_artifact: Any) -> None:
    with Worker(make_artifact(), 1) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="died by signal SIGKILL"):
            worker.peak_memory()


@posix
def test_a_worker_that_hangs_is_killed(make_artifact: Any) -> None:
    with Worker(make_artifact(), 1) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(WorkerError, match=r"did not answer within 0\.2 seconds"):
            worker.ask({"do": "memory"}, 0.2)
        assert gone(worker.pid)


def test_the_last_words_are_told(make_artifact: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A module of the same name as a part of the runtime, that dies with a message.
    (tmp_path / "onnxruntime.py").write_text("import os, sys\nsys.stderr.write('out of luck\\n')\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(WorkerError, match=r"died with exit code 3; its last words: .*out of luck"):
        Worker(make_artifact(), 1)


@posix
def test_a_paused_worker_stands_still_and_goes_on_when_asked(make_artifact: Any) -> None:
    with Worker(make_artifact(), 1) as worker:
        worker.pause()
        if Path("/proc").exists():
            assert state(worker.pid) == "T"
        assert worker.predict([np.ones((1, 3), np.float32)])[0].shape == (1, 3)
        worker.pause()
    assert gone(worker.pid)


def test_files_are_removed(make_artifact: Any) -> None:
    with Worker(make_artifact(), 1) as worker:
        folder = Path(worker._folder)
        worker.predict([np.ones((1, 3), np.float32)])
        assert not list(folder.glob("*.npy"))
    assert not folder.exists()


PARENT = """
    import signal, sys, time
    # as in a terminal: a runner in the background starts its children with Ctrl-C ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from leanly.artifact import Artifact
    from leanly.measurement.workers import Worker
    with Worker(Artifact.open(sys.argv[1]), 1) as worker:
        if sys.argv[2] == "paused":
            worker.pause()
        print(worker.pid, flush=True)
        time.sleep(60)
"""


@posix
@pytest.mark.parametrize("how", ["running", "paused"])
def test_no_orphan_when_the_parent_is_killed(make_artifact: Any, how: str) -> None:
    # A session of its own, as a terminal gives one, so that the kernel's rule for orphaned groups applies.
    parent = python(PARENT, str(make_artifact().folder), how, start_new_session=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


@posix
def test_control_c_ends_the_workers(make_artifact: Any) -> None:
    parent = python(PARENT, str(make_artifact().folder), "paused", start_new_session=True, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.wait(timeout=20) != 0
    parent.stdout.close()
    assert gone(pid)


def test_worker_ends_when_stdin_closes() -> None:
    process = python("from leanly.measurement.worker_main import main; main()", stdin=subprocess.PIPE)
    output, _ = process.communicate("", timeout=20)
    assert (process.returncode, output) == (0, "")


def test_chatter_stays_out_of_the_protocol() -> None:
    code = """
        import os
        from leanly.measurement.worker_main import _protocol
        with _protocol() as stream:
            print("from Python", flush=True)
            os.write(1, b"from C\\n")
            stream.write("protocol\\n")
    """
    process = python(code, stderr=subprocess.PIPE)
    output, errors = process.communicate(timeout=20)
    assert output == "protocol\n"
    assert "from Python" in errors and "from C" in errors


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_worker_without_torch_does_not_import_torch(make_artifact: Any, runtime: str) -> None:
    pytest.importorskip(runtime)
    artifact = replace(make_artifact(), runtime=runtime)
    artifact.save()
    code = """
        import sys
        from pathlib import Path
        import numpy as np
        from leanly.measurement.worker_main import Session
        session = Session()
        folder = Path(sys.argv[1])
        session.open(folder, folder, 1)
        session.predictor.run([np.zeros((1, 3), np.float32)])
        print([name for name in ("torch", "scipy", "onnx") if name in sys.modules])
    """
    process = python(code, str(artifact.folder))
    output, _ = process.communicate(timeout=60)
    assert output == "[]\n"


class Slowing:
    """Stands for a predictor: remembers its calls."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def run(self, arrays: list[Any]) -> list[Any]:
        self.calls += 1
        time.sleep(self.seconds if self.calls > 1 else 10 * self.seconds)
        return arrays


def session(predictor: Slowing) -> Session:
    found = Session()
    found._predictor = predictor  # type: ignore[assignment]
    found._inputs["x"] = []
    return found


def test_warming_ends_at_its_limit_and_leaves_out_the_first_call() -> None:
    predictor = Slowing(0.05)
    reply = session(predictor).answer({"do": "warm", "key": "x", "limit": 0.001})
    assert predictor.calls == 2
    assert reply["first"] > 5 * reply["seconds"]


def test_calls_that_do_not_count_are_made_all_the_same() -> None:
    predictor = Slowing(0.0001)
    assert len(session(predictor).answer({"do": "time", "key": "x", "discard": 3, "calls": 4})["seconds"]) == 4
    assert predictor.calls == 7


def test_an_unknown_request_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown request 'dance'"):
        Session().answer({"do": "dance"})
